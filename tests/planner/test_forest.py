"""The forest holds every load once, below the right directories, however few of them stand on their own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from listener.planner import DirectoryLoad
from listener.planner.forest import build_forest

places = st.builds(
    lambda target, host, parts: (target, f"https://{host}.example/" + "".join(f"{part}/" for part in parts)),
    st.sampled_from(["cdn", "other"]),
    st.sampled_from(["a", "b"]),
    st.lists(st.sampled_from(["x", "x y", "", "y"]), max_size=4),
)


@settings(max_examples=800, deadline=None)
@given(due=st.dictionaries(places, st.tuples(st.integers(1, 9), st.booleans()), max_size=14), most=st.integers(0, 14))
def test_every_load_counts_to_the_nearest_directory_above_it(
    due: dict[tuple[str, str], tuple[int, bool]], most: int
) -> None:
    """Parents are the longest prefixes that stand; sums of due needs are right, with and without a bound."""
    loads = [DirectoryLoad(target, url, n, subtree) for (target, url), (n, subtree) in due.items()]
    forest = build_forest(loads, most)
    places = list(zip(forest.targets, forest.urls, strict=True))
    assert sorted(i for _, i in forest.members) == list(range(len(loads)))
    assert len(set(places)) == len(places)
    for v, (target, url) in enumerate(places):
        above = [u for t, u in places if t == target and url.startswith(u) and u != url]
        parent = forest.parents[v]
        assert (places[parent][1] if parent >= 0 else None) == (max(above, key=len) if above else None)
        assert parent < v
        inside = [load for load in loads if load.target == target and load.url.startswith(url)]
        assert forest.below[v] == sum(load.due for load in inside)
        assert forest.subtrees[v] == sum(load.subtree_due for load in inside)
    for v, i in forest.members:
        standing = [u for t, u in places if t == loads[i].target and loads[i].url.startswith(u)]
        assert forest.urls[v] == max(standing, key=len)
