"""What is due when a count has grown."""


class Every:
    """Says how many multiples of `period` a growing count has passed since the last question.

    A period of 0 means never.
    """

    def __init__(self, period: int, start: int = 0):
        self.period = period
        self.last = start // period if period else 0

    def __call__(self, count: int) -> int:
        if not self.period:
            return 0
        passed = count // self.period - self.last
        self.last = count // self.period
        return passed
