"""All experiments, one after another, with the options given: `python -m experiments [--smoke]`."""

import subprocess
import sys

NAMES = ("gradient_study", "sgd_movielens", "als_sweep", "latent_factors", "solver_race", "scaling")

if __name__ == "__main__":
    for name in NAMES:
        print(f"experiments.{name}", flush=True)  # noqa: T201
        subprocess.run([sys.executable, "-m", f"experiments.{name}", *sys.argv[1:]], check=True)
