"""The command line, and the jobs that it shares with the experiments. JAX is loaded only where it is needed."""
