"""Keypoints that keep their distances while a body moves, found from the limbs that join them."""

from networkx import Graph
from networkx.algorithms.community import k_clique_communities

from querypose.skeleton import Skeleton


def rigid_segments(skeleton: Skeleton) -> list[list[int]]:
    """Divide the keypoints into parts without a joint inside, as the paper argues for Figure 4 (c).

    A part is a body that its limbs make rigid, or one limb, or a keypoint that no limb has room for:

    1. Triangles of limbs do not bend (longer rings do). Those that share a limb are one body.
    2. From the extremities inwards, a keypoint with one limb left makes a part with its neighbor: wrist and elbow. If
       the neighbor belongs to a body, the keypoint joins it: ear and head. If a neighbor has several such keypoints,
       none that mirror each other can be preferred, and of the others the last in order is taken.
    3. Where no extremity is left, limbs that join mirror images are parts (the shoulders, the hips), and where there
       is none of these either, the first limb in order.

    Left and right are treated alike as long as limbs and order of the keypoints are the same on both sides.

    Returns:
        lists of keypoint indices, each sorted, the lists in order of their first keypoint.
    """
    neighbors: dict[int, set[int]] = {i: set() for i in range(skeleton.num_keypoints)}
    for i, j in skeleton.limbs:
        neighbors[i].add(j)
        neighbors[j].add(i)
    bodies = _rigid_bodies(neighbors)
    body_of = {i: body for body in bodies for i in body}
    parts = list(bodies)
    left = set(neighbors) - set(body_of)

    def open_limbs(i: int) -> set[int]:
        """Neighbours that have room: those not in a part yet, and those in rigid bodies."""
        return {j for j in neighbors[i] if j in left or j in body_of}

    while left:
        for i in [i for i in sorted(left) if not open_limbs(i)]:
            parts.append({i})
            left.discard(i)
        extremities = {i: next(iter(open_limbs(i))) for i in sorted(left) if len(open_limbs(i)) == 1}
        mirrored = [(i, skeleton.flip_indices[i]) for i in sorted(left) if i < skeleton.flip_indices[i]]
        mirrored = [(i, j) for i, j in mirrored if j in left and j in neighbors[i]]
        if extremities:
            _join_extremities(extremities, skeleton.flip_indices, body_of, parts, left)
        elif mirrored:
            parts += [{i, j} for i, j in mirrored]
            left -= {i for pair in mirrored for i in pair}
        elif left:
            _join_first(left, neighbors, body_of, parts)
    return sorted(sorted(part) for part in parts)


def _rigid_bodies(neighbors: dict[int, set[int]]) -> list[set[int]]:
    """Triangles of limbs, those that share two keypoints joined."""
    bodies = sorted(map(sorted, k_clique_communities(Graph(neighbors), 3)))
    # bodies that touch in one keypoint can turn about it: that keypoint stays with the first
    taken: set[int] = set()
    apart = []
    for body in bodies:
        apart.append(set(body) - taken)
        taken.update(body)
    return [body for body in apart if body]


def _join_extremities(
    extremities: dict[int, int],
    flip_indices: list[int],
    body_of: dict[int, set[int]],
    parts: list[set[int]],
    left: set[int],
) -> None:
    """Step 2 for all extremities at once: `extremities` maps each to its neighbor."""
    by_neighbor: dict[int, list[int]] = {}
    for i, neighbor in extremities.items():
        by_neighbor.setdefault(neighbor, []).append(i)
    for neighbor, ends in by_neighbor.items():
        ends = [i for i in ends if i in left]
        if neighbor in body_of:
            for i in ends:
                body_of[neighbor].add(i)
                body_of[i] = body_of[neighbor]
        elif neighbor in left:
            single = [i for i in ends if flip_indices[i] == i or flip_indices[i] not in ends]
            pair = single[-1:]
            parts += [{i} for i in ends if i not in pair]
            if pair:
                parts.append({neighbor, *pair})
                left.discard(neighbor)
        left.difference_update(ends)


def _join_first(
    left: set[int], neighbors: dict[int, set[int]], body_of: dict[int, set[int]], parts: list[set[int]]
) -> None:
    """Step 3 without mirror images: the first keypoint joins its first neighbor's part or makes one with it."""
    i = min(left)
    free = sorted(neighbors[i] & left)
    if free:
        parts.append({i, free[0]})
        left.discard(free[0])
    else:
        neighbor = min(j for j in neighbors[i] if j in body_of)
        body_of[neighbor].add(i)
        body_of[i] = body_of[neighbor]
    left.discard(i)
