"""From LIBERO files or a scripted expert to episodes, splits, statistics and annotations."""
