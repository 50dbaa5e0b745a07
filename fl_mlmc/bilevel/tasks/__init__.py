"""Bilevel tasks, ready to run: one problem a file."""

from .adapt import adapted
from .hyper_cleaning import CleaningRows, detection_auc, hyper_cleaning, log_ridge, with_wrong_labels
from .hyper_representation import hyper_representation
from .meta_learning import few_shot_tasks, meta_learning
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
    "with_wrong_labels",
]
