"""What is made in the account, one stack a file; the cluster's parts have files of their own."""
