"""C-FIND (PS3.4 annexes C and K): keys, matches, and the splitting of queries."""
