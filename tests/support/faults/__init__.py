"""The matrix of failing calls: each operation of each role, with each errno that its calls can give."""
