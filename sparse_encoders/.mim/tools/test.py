"""`mim test sparse_encoders CONFIG --checkpoint FILE`."""

import sys

from sparse_encoders.launch import main

main(["test", *sys.argv[1:]])
