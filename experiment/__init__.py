"""Stages, store, executors and the command line."""
