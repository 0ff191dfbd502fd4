import base64
import threading
from typing import Any

import httpx
import pytest

from receiver.sandbox.faults import CallFault, CompletionFault, FaultPicker, Faults, ResultFault, plan_of
from receiver.sandbox.options import Options
from receiver.sandbox.pictures import draw
from tests.sandbox.harness import TOKEN, Neighbour, Sandbox, opened, sandbox

AS_BASE64 = {"_base64": base64.b64encode(draw(1, (40, 30), "jpg")).decode()}


def with_faults(**shares: float) -> Options:
    return Options(token=TOKEN, delay=0, slow_rate=100_000, faults=Faults(**shares))


def result(box: Sandbox, *faults: str, **options: Any) -> httpx.Response:
    url: str = box.outcome(dict(AS_BASE64), *faults, **options)["_upscaled_image_url"]
    return box.get(url)


def is_as_promised(box: Sandbox, url: str) -> bool:
    try:
        return opened(box.get(url).raise_for_status().content).size == (80, 60)
    except (httpx.HTTPError, OSError, SyntaxError):
        return False


def test_without_faults_the_picture_is_sound(any_box: Sandbox) -> None:
    answer = result(any_box)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert opened(answer.content).size == (80, 60)


def test_cut_promises_the_whole_length_and_gives_half(any_box: Sandbox) -> None:
    url = any_box.outcome(dict(AS_BASE64), "cut")["_upscaled_image_url"]
    with any_box.stream("GET", url) as answer:
        promised = int(answer.headers["content-length"])
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()
    assert promised == len(result(any_box).content)
    assert answer.num_bytes_downloaded == promised // 2


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_corrupt_gives_as_many_bytes_that_no_decoder_takes(any_box: Sandbox, image_format: str) -> None:
    sound = result(any_box, image_format=image_format).content
    corrupt = result(any_box, "corrupt", image_format=image_format).content
    assert len(corrupt) == len(sound)
    assert corrupt[:12] == sound[:12]
    with pytest.raises((OSError, SyntaxError)):
        opened(corrupt)


def test_wrong_size_gives_a_sound_picture_of_other_dimensions_than_promised(any_box: Sandbox) -> None:
    record = any_box.outcome(dict(AS_BASE64), "wrong_size")
    assert (record["_upscaled_width"], record["_upscaled_height"]) == (80, 60)
    assert opened(any_box.get(record["_upscaled_image_url"]).content).size == (40, 30)


def test_html_and_empty_answer_200_without_a_picture(any_box: Sandbox) -> None:
    page, nothing = result(any_box, "html"), result(any_box, "empty")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text.startswith("<!doctype html>")
    assert (nothing.status_code, nothing.content) == (200, b"")


@pytest.mark.parametrize(("fault", "status"), [("gone", 403), ("missing", 404), ("broken", 500)])
def test_gone_missing_and_broken_never_give_the_picture(any_box: Sandbox, fault: str, status: int) -> None:
    url = any_box.outcome(dict(AS_BASE64), fault)["_upscaled_image_url"]
    assert [any_box.get(url).status_code for _ in range(4)] == [status] * 4


def test_flaky_gives_the_picture_after_so_many_503s() -> None:
    with sandbox(Options(token=TOKEN, delay=0, flaky_times=3)) as box:
        url = box.outcome(dict(AS_BASE64), "flaky")["_upscaled_image_url"]
        answers = [box.get(url) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [503, 503, 503, 200, 200]
        assert opened(answers[-1].content).size == (80, 60)


def test_slow_gives_the_whole_picture_in_drops() -> None:
    with sandbox(Options(token=TOKEN, delay=0, slow_rate=100_000)) as box:
        answer = result(box, "slow")
        assert opened(answer.content).size == (80, 60)
        assert int(answer.headers["content-length"]) == len(answer.content)
    with sandbox(Options(token=TOKEN, delay=0, slow_rate=10)) as box:
        url = box.outcome(dict(AS_BASE64), "slow")["_upscaled_image_url"]
        with box.stream("GET", url) as held:
            assert len(next(held.iter_raw())) == 1
        # Leaving here ends the sandbox in the midst of a drip that would last for minutes.


def test_stale_announces_a_dead_url_while_the_api_names_a_good_one(box: Sandbox, near: Neighbour) -> None:
    submitted = box.submit(dict(AS_BASE64), "stale", webhook={"endpoint": near.webhook})
    announced = near.take().body["response"]["records"][0]["_upscaled_image_url"]
    present = box.job(submitted["id"])["response"]["records"][0]["_upscaled_image_url"]
    assert box.get(announced).status_code == 403
    assert box.get(present).status_code == 200


def test_record_is_a_job_that_is_done_with_a_record_that_is_not(box: Sandbox, near: Neighbour) -> None:
    box.submit(dict(AS_BASE64), "record", webhook={"endpoint": near.webhook})
    body = near.take().body
    record = body["response"]["records"][0]
    assert body["status"] == "DONE"
    assert record["_status"]["code"] == 500
    assert "_upscaled_image_url" not in record


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("failed", "FAILED"),
        ("limit", "API_LIMIT_EXCEEDED"),
        ("unsupported", "NOT_SUPPORTED"),
        ("stuck", "PROCESSING"),
    ],
)
def test_jobs_that_end_otherwise_are_silent(box: Sandbox, near: Neighbour, fault: str, status: str) -> None:
    submitted = box.submit(dict(AS_BASE64), "early", fault, webhook={"endpoint": near.webhook})
    job = box.job(submitted["id"])
    assert job["status"] == status
    assert "response" not in job
    assert near.waiting == 0


def test_failed_told_calls_back_without_a_response(box: Sandbox, near: Neighbour) -> None:
    submitted = box.submit(dict(AS_BASE64), "failed_told", webhook={"endpoint": near.webhook})
    assert near.take().body == {"status": "FAILED", "id": submitted["id"], "type": "upscaler"}


def test_retry_is_seen_on_the_way_to_done(box: Sandbox, near: Neighbour) -> None:
    near.gate = threading.Event()
    submitted = box.submit({"_url": near.serve(draw(1, (40, 30), "jpg"))}, "retry")
    assert near.asked.wait(30)
    box.until(submitted["id"], "RETRY")
    near.gate.set()
    box.until(submitted["id"], "DONE")


def test_a_completion_is_attempted_once_whatever_the_webhook_answers(box: Sandbox, near: Neighbour) -> None:
    for near.answer in (200, 302, 500, 503):
        box.submit(dict(AS_BASE64), "early", webhook={"endpoint": near.webhook})
        near.take()
        assert near.waiting == 0


def test_a_webhook_that_does_not_listen_harms_nothing(box: Sandbox) -> None:
    submitted = box.submit(dict(AS_BASE64), "early", webhook={"endpoint": "http://127.0.0.1:1/hook"})
    assert box.job(submitted["id"])["status"] == "DONE"


def test_drop_never_sends_the_completion(near: Neighbour) -> None:
    with sandbox(with_faults(drop=1, early=1)) as box:
        job_id = box.submit(dict(AS_BASE64), webhook={"endpoint": near.webhook})["id"]
        assert box.job(job_id)["status"] == "DONE"
        assert near.waiting == 0


def test_twice_sends_the_same_completion_two_times(near: Neighbour) -> None:
    with sandbox(with_faults(twice=1, early=1)) as box:
        box.submit(dict(AS_BASE64), webhook={"endpoint": near.webhook})
        assert near.waiting == 2
        assert near.take().raw == near.take().raw


def test_late_sends_the_completion_when_the_job_is_long_done(near: Neighbour) -> None:
    hook = {"endpoint": near.webhook}
    with sandbox(Options(token=TOKEN, delay=0, late_by=3600)) as box:
        late = box.submit(dict(AS_BASE64), "late", webhook=hook)["id"]
        box.until(late, "DONE")
        prompt = box.submit(dict(AS_BASE64), "early", webhook=hook)["id"]
        assert near.take().body["id"] == prompt
        assert near.waiting == 0
    with sandbox(Options(token=TOKEN, delay=0, late_by=0.01)) as box:
        assert box.submit(dict(AS_BASE64), "late", webhook=hook)["id"] == near.take().body["id"]


def test_reorder_lets_another_completion_overtake(near: Neighbour) -> None:
    hook = {"endpoint": near.webhook}
    with sandbox(Options(token=TOKEN, delay=0, reorder_within=3600)) as box:
        first = box.submit(dict(AS_BASE64), "reorder", webhook=hook)["id"]
        box.until(first, "DONE")
        second = box.submit(dict(AS_BASE64), webhook=hook)["id"]
        assert [near.take().body["id"] for _ in range(2)] == [second, first]
    with sandbox(Options(token=TOKEN, delay=0, reorder_within=0.01)) as box:
        alone = box.submit(dict(AS_BASE64), "reorder", webhook=hook)["id"]
        assert near.take().body["id"] == alone


def test_early_sends_the_completion_before_the_submits_answer(box: Sandbox, near: Neighbour) -> None:
    submitted = box.submit(dict(AS_BASE64), "early", webhook={"endpoint": near.webhook})
    assert near.waiting == 1
    assert near.take().body["id"] == submitted["id"]
    assert submitted["status"] == "CREATED"


def test_lost_answer_creates_the_job_and_answers_502(box: Sandbox, near: Neighbour) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="502"):
        box.submit(dict(AS_BASE64), "lost_answer", webhook={"endpoint": near.webhook})
    assert [row["id"] for row in box.get("/request").json()["results"]] == [near.take().body["id"]]


@pytest.mark.parametrize(
    ("fault", "status"), [(CallFault.REFUSE, 401), (CallFault.THROTTLE, 429), (CallFault.OUTAGE, 502)]
)
def test_calls_of_the_api_fail_by_share(fault: CallFault, status: int) -> None:
    with sandbox(Options(token=TOKEN, retry_after=7, faults=Faults(**{fault: 1.0}))) as box:
        for answer in (box.get("/request"), box.get("/request/x/status"), box.post("/request", json={})):
            assert answer.status_code == status
            assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


@pytest.mark.parametrize("fault", list(ResultFault))
def test_every_fault_of_results_also_comes_by_share_and_yields_to_the_requests_own_word(
    fault: ResultFault,
) -> None:
    with sandbox(with_faults(**{fault: 1.0, "early": 1.0})) as box:
        job_id = box.submit(dict(AS_BASE64))["id"]
        befallen = box.job(job_id)["response"]["records"][0]["_upscaled_image_url"]
        spared = box.outcome(dict(AS_BASE64))["_upscaled_image_url"]
        assert is_as_promised(box, spared)
        assert is_as_promised(box, befallen) == (fault in {ResultFault.SLOW, ResultFault.STALE})


def test_pickers_of_one_seed_agree_and_others_differ() -> None:
    faults = Faults(drop=0.3, twice=0.3, cut=0.5, throttle=0.5)

    def series(seed: int | None) -> list[object]:
        picker = FaultPicker(faults, seed)
        return [picker.plan() for _ in range(200)]

    assert series(1) == series(1)
    assert series(1) != series(2)
    assert series(None) != series(None)


def test_calls_of_the_api_do_not_change_what_befalls_the_jobs() -> None:
    quiet, busy = (FaultPicker(Faults(drop=0.5, throttle=0.5), 3) for _ in range(2))
    for _ in range(50):
        for _ in range(7):
            busy.pick(CallFault)
        assert quiet.plan() == busy.plan()


def test_a_picker_gives_each_fault_its_share() -> None:
    picker = FaultPicker(Faults(drop=0.5, twice=0.1), 4)
    picked = [picker.pick(CompletionFault) for _ in range(2000)]
    assert 900 < picked.count(CompletionFault.DROP) < 1100
    assert 150 < picked.count(CompletionFault.TWICE) < 250
    assert picked.count(CompletionFault.LATE) == 0


def test_shares_of_one_always_befall_and_shares_of_zero_never() -> None:
    always, never = FaultPicker(Faults(empty=1), None), FaultPicker(Faults(), None)
    assert {always.pick(ResultFault) for _ in range(500)} == {ResultFault.EMPTY}
    assert {never.pick(ResultFault) for _ in range(500)} == {None}


@pytest.mark.parametrize(
    "shares", [{"cut": -0.1}, {"cut": 1.1}, {"cut": 0.6, "empty": 0.6}, {"unknown": 0.1}]
)
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|more than 1|no such fault"):
        Faults(**shares)


def test_shares_of_several_groups_do_not_add_up() -> None:
    assert Faults(cut=1, drop=1, early=1).share(CompletionFault.DROP) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"url_lifetime": -1},
        {"page_size": 0},
        {"token": ""},
        {"delay": float("nan")},
        {"link_base": "elsewhere"},
        {"link_base": "http://["},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)


def test_the_token_does_not_show_in_the_options_repr() -> None:
    assert "hidden" not in repr(Options(token="hidden"))


def test_a_plan_takes_one_fault_of_each_group() -> None:
    assert plan_of(["cut", "twice"]) == {ResultFault.CUT, CompletionFault.TWICE}
    with pytest.raises(ValueError, match="exclude"):
        plan_of(["cut", "empty"])
    with pytest.raises(ValueError, match="throttle"):
        plan_of(["throttle"])
