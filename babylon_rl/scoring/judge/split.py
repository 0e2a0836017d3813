"""Groups that exceed what the judge can read: parts that share one episode, the anchor, and their reunion.

Scores are relative to whom the judge saw, so the scores of each part are shifted until the anchor has the
same one in all of them. The order within a part never changes; between parts it is as good as the anchor.
"""

from collections.abc import Callable, Sequence

from babylon_rl.scoring.judge.errors import ContextOverflowError


def split(tokens: Sequence[int], fits: Callable[[int, int], bool]) -> list[list[int]]:
    """Returns positions by part: one part if all fit, else parts that all begin with the anchor.

    Args:
        tokens: Of each episode, in the order in which they are shown; the shortest one is the anchor.
        fits: Whether a total of tokens in a number of episodes can be read at once.

    Raises:
        ContextOverflowError: An episode does not fit even beside the anchor alone.
    """
    everyone = list(range(len(tokens)))
    if fits(sum(tokens), len(tokens)):
        return [everyone]
    anchor = min(everyone, key=lambda i: (tokens[i], i))
    parts: list[list[int]] = []
    part, total = [anchor], tokens[anchor]
    for i in everyone:
        if i == anchor:
            continue
        if len(part) > 1 and not fits(total + tokens[i], len(part) + 1):
            parts.append(part)
            part, total = [anchor], tokens[anchor]
        if not fits(total + tokens[i], len(part) + 1):
            raise ContextOverflowError(
                f"an episode of {tokens[i]} tokens does not fit into the judge's context beside another",
                "Lower JUDGE_EPISODE_TOKENS, or use a judge with a larger context.",
            )
        part.append(i)
        total += tokens[i]
    return [*parts, part]


def halve(positions: Sequence[int], tokens: Sequence[int]) -> list[list[int]]:
    """Returns two parts with a shared anchor of a part that the judge turned out not to be able to read.

    Raises:
        ContextOverflowError: Two episodes are the least that can be compared.
    """
    if len(positions) <= 2:
        raise ContextOverflowError(
            f"the judge cannot read {len(positions)} episodes at once",
            "Lower JUDGE_EPISODE_TOKENS, or use a judge with a larger context.",
        )
    anchor = min(positions, key=lambda i: (tokens[i], i))
    others = [i for i in positions if i != anchor]
    middle = (len(others) + 1) // 2
    return [[anchor, *others[:middle]], [anchor, *others[middle:]]]


def reunite(parts: Sequence[Sequence[int]], scores: Sequence[Sequence[float]], count: int) -> list[float]:
    """Returns one score from 0 to 1 per position.

    Args:
        parts: Positions of each part; two parts share what they share.
        scores: Of each part, in its order.
        count: How many positions there are.
    """
    known: dict[int, float] = dict(zip(parts[0], scores[0], strict=True))
    waiting = list(zip(parts[1:], scores[1:], strict=True))
    while waiting:
        part, own = next(entry for entry in waiting if any(i in known for i in entry[0]))
        waiting.remove((part, own))
        shared = [(known[i], score) for i, score in zip(part, own, strict=True) if i in known]
        shift = sum(there - here for there, here in shared) / len(shared)
        known |= {i: score + shift for i, score in zip(part, own, strict=True) if i not in known}
    low, high = min(0.0, *known.values()), max(1.0, *known.values())
    # A shift may leave the range: then all are pressed together alike, which keeps every order.
    return [min(1.0, max(0.0, (known[i] - low) / (high - low))) for i in range(count)]
