"""`python -m adjointdpm`.

For several processes: `accelerate launch -m adjointdpm`, or `torchrun -m adjointdpm`.
"""

from adjointdpm.cli import main

if __name__ == "__main__":  # not in a process that multiprocessing spawned from this one
    main()
