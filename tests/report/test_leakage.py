"""The section of a page on what messages give away, from made-up recordings."""

import json

import numpy as np
import pytest

from helpers.fake_study import write_study
from lipsjax import recording
from lipsjax.report import html, leakage


def write_attack(run_dir, identified, *, attacker="aware", pictures=False):
    folder = run_dir / "attacks"
    folder.mkdir(exist_ok=True)
    name = f"1-cosine-{attacker}-0a1b2c3d"
    about = {
        **{"attack": "cosine", "attacker": attacker, "round": 1, "behaviour": recording.BEHAVIOUR},
        **{"settings": {}, "masks_known": False, "threat": "A server that looks."},
    }
    (folder / f"{name}.json").write_text(json.dumps(about))
    rest = {"mse": [0.1], "psnr": [10.0], "ssim": [0.5], "mse_of_mean": [0.07], "examples": 1}
    rows = [{"client": k, "identified": [x], **rest} for k, x in enumerate(identified)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if pictures:
        images = np.random.default_rng(0).uniform(size=(2, 3, 4, 4, 1))
        np.savez(folder / f"{name}-0.npz", true=images[0], found=images[1])


@pytest.fixture
def attacked(tmp_path):
    """Of every victim dense gives all away, and lips nothing of two in three."""
    write_study(tmp_path, seeds=3)
    for trial in recording.read_study(tmp_path).trials:
        found = [1, 1, 1] if trial.arm == "dense" else [0, 0, 1]
        if trial.seed == 0:
            found = [1, 1, 0]
        for attacker in ("aware", "unaware"):
            write_attack(tmp_path / "runs" / trial.run, found, attacker=attacker)
    return tmp_path


def test_arms_are_compared_by_what_leaks(attacked):
    study = recording.read_study(attacked)
    (part,) = leakage.parts(study)
    assert [leak.interval.mean for leak in part.leaks["dense"] if leak.measure == "identified"] == [
        *[pytest.approx(8 / 9)] * 2,
    ]
    assert len(part.sentences) == 2
    first = part.sentences[0]
    assert "lips against dense, round 1, images found by matching (signed Adam)" in first
    assert "44.4 [0.0, 92.3]% against 88.9 [41.1, 100.0]%, no difference seen" in first
    assert "(-44.4 [-140.1, 51.2] points, over 3 seeds)" in first


def test_a_study_without_attacks_has_no_section(tmp_path):
    write_study(tmp_path, seeds=2)
    study = recording.read_study(tmp_path)
    assert leakage.parts(study) == []
    assert 'id="leakage"' not in html.render(study)
    assert not leakage.write_leakage(study, tmp_path / "leakage.csv")
    assert not (tmp_path / "leakage.csv").exists()


@pytest.mark.whole
def test_the_page_says_what_leaks_and_who_attacks(attacked):
    study = recording.read_study(attacked)
    page = html.render(study)
    for words in ("What messages give away", "A server that looks.", "does not make an arm safe"):
        assert words in page
    assert "Images that one client holds" not in page, "no images were kept"
    assert leakage.write_leakage(study, attacked / "leakage.csv")
    lines = (attacked / "leakage.csv").read_text().splitlines()
    assert lines[0].startswith("cell,arm,attack,attacker,round,measure,mean")
    assert sum(",identified," in line for line in lines) == 4


@pytest.mark.whole
def test_images_are_shown_where_they_were_kept(attacked):
    trial = next(t for t in recording.read_study(attacked).trials if t.arm == "lips")
    write_attack(attacked / "runs" / trial.run, [1, 0, 0], pictures=True)
    assert "Images that one client holds" in html.render(recording.read_study(attacked))


@pytest.mark.parametrize(
    ("content", "words"), [("{}", "lacks 'attack'"), ("[", "cannot be read"), ("3", "damaged")]
)
def test_a_damaged_record_of_an_attack_is_one_line(attacked, content, words):
    path = next(attacked.glob("runs/*/attacks/*.json"))
    path.write_text(content)
    with pytest.raises(recording.RecordingError, match=words):
        recording.read_study(attacked)
