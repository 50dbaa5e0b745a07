from fl_mlmc.run.rng import stream


def test_a_path_names_one_stream() -> None:
    draw = stream(1, "level", 3, 7).random(4).tolist()
    assert draw == stream(1, "level", 3, 7).random(4).tolist()
    others = [stream(2, "level", 3, 7), stream(1, "level", 3, 8), stream(1, "batches", 3, 7)]
    assert all(draw != other.random(4).tolist() for other in others)


def test_streams_do_not_change_between_versions() -> None:
    assert stream(0, "cohort", 1).integers(1000, size=3).tolist() == [645, 947, 147]
