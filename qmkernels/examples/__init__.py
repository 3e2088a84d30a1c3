"""Scripts to copy from: ``python -m qmkernels.examples.NAME``. They use public names alone and check their results."""
