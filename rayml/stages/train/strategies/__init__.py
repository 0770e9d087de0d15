"""How the ranks share one model: a file for each strategy, behind one protocol (base.py)."""
