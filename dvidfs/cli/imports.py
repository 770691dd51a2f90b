"""placeholder"""


def add(c):
    pass
