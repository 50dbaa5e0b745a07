from fl_mlmc.config import RunConfig
