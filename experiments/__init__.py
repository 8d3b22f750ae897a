"""One question per script, each runnable alone: `python -m experiments.NAME [--data NAME] [--out FOLDER] [--smoke]`."""
