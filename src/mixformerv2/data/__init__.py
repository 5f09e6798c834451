"""Annotated video and images on disk, one reader each for training and evaluation."""
