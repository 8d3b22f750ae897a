"""The command line, and the jobs that it and the experiments share. Nothing here loads JAX before it is needed."""
