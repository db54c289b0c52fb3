"""``python -m simsam_batch`` is the ``simsam`` command; torchrun starts it this way."""

from simsam_batch.cli import main

if __name__ == "__main__":
    main()
