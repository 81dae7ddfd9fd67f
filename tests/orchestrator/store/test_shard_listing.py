import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.store.layout import packs_folder, shard_site
from orchestrator.store.shard_listing import ListedShard, list_shards
from orchestrator.store.store import Store

KEYS = [ArtifactKey("curate", prefix * 32) for prefix in ("00", "0f", "a1", "ff")]


def put(store: Store, key: ArtifactKey, *, records: int, retracted: int, attempts: tuple[str, ...] = ()) -> None:
    site = shard_site(key)
    for generation in range(records):
        store.put_new(site.commit_key(generation), b"{}")
    for generation in range(retracted):
        store.put_new(site.retracted_key(generation), b"{}")
    for attempt in attempts:
        store.put_new(site.outcome_key(attempt), b"{}")
        store.put_new(f"{site.data_key(attempt)}/deep/part", b"part")


def test_a_listing_says_which_record_counts_and_what_attempts_have(store: Store) -> None:
    put(store, KEYS[0], records=1, retracted=0, attempts=("a",))
    put(store, KEYS[1], records=2, retracted=1, attempts=("a", "b"))
    put(store, KEYS[2], records=2, retracted=2)
    put(store, KEYS[3], records=0, retracted=0, attempts=("a",))
    store.put_new(f"{packs_folder('curate', 'm')}/x.jsonl", b"")
    found = {shard.key: shard for shards in list_shards(store, "curate") for shard in shards}
    assert sorted(found) == sorted(KEYS)
    heads = [(found[key].generation, found[key].is_committed) for key in KEYS]
    assert heads == [(0, True), (1, True), (2, False), (0, False)]
    assert [sorted(found[key].attempts) for key in KEYS] == [["a"], ["a", "b"], [], ["a"]]
    files = {item.key: item.bytes for item in found[KEYS[0]].attempts["a"]}
    assert files == {shard_site(KEYS[0]).outcome_key("a"): 2, f"{shard_site(KEYS[0]).data_key('a')}/deep/part": 4}


def test_only_the_wanted_prefixes_are_listed(memory_store: Store) -> None:
    for key in KEYS:
        put(memory_store, key, records=1, retracted=0)
    found = [shard.key for shards in list_shards(memory_store, "curate", ["a1", "0f"]) for shard in shards]
    assert found == [KEYS[1], KEYS[2]]
    assert [shards for shards in list_shards(memory_store, "other") if shards] == []


def test_a_retraction_without_its_record_leaves_the_generation_open() -> None:
    shard = ListedShard(key=KEYS[0], records={0, 2}, retracted={0, 1})
    assert (shard.generation, shard.is_committed) == (1, False)


@pytest.mark.parametrize("name", ["notes.txt", f"{'g' * 64}.json", f"{'0' * 64}.x.json", f"{'0' * 64}.01.json"])
def test_other_objects_are_passed_over(memory_store: Store, name: str) -> None:
    memory_store.put_new(f"shards/curate/00/{name}", b"")
    assert [shards for shards in list_shards(memory_store, "curate") if shards] == []
