"""Experiments, one script each: `python -m experiments.NAME [--data NAME] [--out FOLDER] [--smoke]`."""
