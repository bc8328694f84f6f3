"""Optical flow and its tokens."""
