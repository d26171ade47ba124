"""End to end: the real `./run.sh` between real clients and the stand-in."""
