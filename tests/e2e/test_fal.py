"""What is fal.ai's alone, from its stand-in to the archive, with real sockets."""

from tests.support.processes import Programs
from tests.support.upscalers import FAL, states


def test_a_file_is_held_to_the_type_size_and_pixels_that_are_promised(programs: Programs) -> None:
    with (
        programs.sandbox(*FAL.options) as box,
        programs.receiver(FAL.settings(programs.folder, box)) as receiver,
    ):
        target = FAL.target(receiver)
        good, wrong = FAL.submit(box, target, "retry"), FAL.submit(box, target, "wrong_size")
        for job_id in (good, wrong):
            receiver.program.until_event("delivery", job=job_id)

        job = receiver.ended(good)
        image = job["image"]
        promised = {name: image[name] for name in ("width", "height", "bytes")}
        assert job["promised"] == {**promised, "type": f"image/{image['format']}"}
        job = receiver.ended(wrong)
        assert (job["state"], job["error"]["reason"]) == ("rejected", "image.wrong_size")


def test_a_payload_that_is_missing_is_asked_for_once_the_model_is_known(programs: Programs) -> None:
    with (
        programs.sandbox(*FAL.options) as box,
        programs.receiver(FAL.settings(programs.folder, box)) as receiver,
    ):
        job_id = FAL.submit(box, FAL.target(receiver), "payload_error")
        receiver.program.until_event("delivery", job=job_id)
        assert FAL.announce(receiver, job_id)["state"] == "received"

        assert receiver.ended(job_id)["state"] == "archived"


def test_while_the_keys_are_away_deliveries_wait_and_none_is_lost(programs: Programs) -> None:
    with (
        programs.sandbox(*FAL.options, "--keys-late", "3s", "--two-keys", "--retry-within", "20s") as box,
        programs.receiver(FAL.settings(programs.folder, box)) as receiver,
    ):
        ids = [FAL.submit(box, FAL.target(receiver)) for _ in range(3)]
        receiver.program.until_event("delivery refused", reason="auth.keys_unavailable")
        for job_id in ids:
            receiver.program.until_event("delivery", job=job_id)

        assert states(receiver, ids) == dict.fromkeys(ids, "archived")
