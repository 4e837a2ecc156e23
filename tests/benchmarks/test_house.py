from benchmarks.house import PICTURE, drawn, floors, reduced


def test_the_picture_in_the_docs_is_of_todays_imports():
    assert PICTURE.read_text("utf-8") == drawn(), "draw it again: python -m benchmarks.house"


def test_an_arrow_that_follows_from_others_is_left_out_and_rooms_stand_above_what_they_import():
    graph = {"roof": {"wall", "ground"}, "wall": {"ground"}, "ground": set(), "lamp": {"ground"}}
    assert reduced(graph) == {"roof": {"wall"}, "wall": {"ground"}, "ground": set()} | {
        "lamp": {"ground"}
    }
    assert floors(graph) == {"roof": 2, "wall": 1, "ground": 0, "lamp": 1}
