"""What is not the paper's: four additions that learn faster from little data, all off by default.

docs/BEYOND_THE_PAPER.md says what each does and what it was measured to bring.
"""
