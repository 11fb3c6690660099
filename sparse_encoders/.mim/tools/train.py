"""`mim train sparse_encoders CONFIG`."""

import sys

from sparse_encoders.launch import main

main(["train", *sys.argv[1:]])
