"""Bilevel tasks, ready to run: one problem a file."""

from .hyper_cleaning import CleaningRows, detection_auc, hyper_cleaning, log_ridge
from .hyper_representation import hyper_representation
from .meta_learning import adapted, few_shot_tasks, meta_learning
from .rows import Rows

__all__ = [
    "CleaningRows",
    "Rows",
    "adapted",
    "detection_auc",
    "few_shot_tasks",
    "hyper_cleaning",
    "hyper_representation",
    "log_ridge",
    "meta_learning",
]
