"""Guessers wait for their answers, one after the other."""

from __future__ import annotations

import asyncio

from rpz_auth.errors import Refusal

HELD_FOR = 0.5
"""Seconds that a guesser waits for an answer at least."""
BETWEEN = 0.005
"""Seconds between two answers."""
MOST = 2000
"""Guessers who wait at once; others are answered without."""


class Turns:
    """Who waits for an answer; of one event loop.

    Whoever waits for one answer before the next guess is slowed down by that, at the price of a timer. The
    answers go out one by one: guesses that were answered together would come back together, and a rightful
    call among them would wait for them all. So, however many guess at once, refusing them takes only a part
    of the processor. Of those who do not wait, so many are held that the memory they take stays small.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self.waiting = 0
        """How many wait."""
        self._answered_at = 0.0
        """When the last of them will be answered, on the loop's clock."""

    async def wait(self, refusal: Refusal) -> None:
        """Wait for one's turn, or not at all if too many wait; `refusal` will be the answer."""
        if self.waiting >= MOST:
            return
        self.waiting += 1
        # All that the call has used so far hangs on these two, and nobody asks for it any more.
        refusal.__context__ = refusal.__traceback__ = None
        try:
            await asyncio.sleep(self.next())
        finally:
            self.waiting -= 1

    def next(self) -> float:
        """In how many seconds the next is answered.

        Turns of those who have given up are not waited for: else whoever calls and hangs up, as fast as it
        can, would put off everybody's answers without end.
        """
        now = asyncio.get_running_loop().time()
        first = now + HELD_FOR
        self._answered_at = min(max(self._answered_at + BETWEEN, first), first + BETWEEN * self.waiting)
        return self._answered_at - now
