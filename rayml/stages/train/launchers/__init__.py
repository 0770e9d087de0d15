"""Who starts the ranks: a file for each launcher, behind one protocol (base.py)."""
