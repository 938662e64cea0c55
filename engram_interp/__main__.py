"""`python -m engram_interp`, which is what `torchrun -m engram_interp` starts: the command line."""

from engram_interp.cli import main

main(prog_name="engram-interp")
