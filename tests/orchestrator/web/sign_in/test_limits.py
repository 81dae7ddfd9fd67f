from orchestrator.web.sign_in.limits import RateLimit


def test_a_burst_is_granted_and_then_one_at_a_time() -> None:
    now = [0.0]
    limit = RateLimit(burst=2, per_s=0.5, clock=lambda: now[0])
    assert [limit.wait_s("alice"), limit.wait_s("alice")] == [0.0, 0.0]
    assert limit.wait_s("alice") == 2.0
    assert limit.wait_s("bob") == 0.0, "each has their own"
    now[0] = 2.0
    assert limit.wait_s("alice") == 0.0
    assert limit.wait_s("alice") > 0.0
