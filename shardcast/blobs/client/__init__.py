"""HTTP out: archives, hash servers and nodes as typed calls, and as stores of blobs."""
