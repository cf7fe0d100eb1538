"""A table of text; what `overview` makes of it is tested beside that."""

from stable_ssl.loggers.table import Table, render


def test_names_are_not_cut_to_the_same():
    names = ["vit_base_patch16_224", "vit_base_patch32_224", "vit_small_patch16_224"]
    table = Table("sizes", ("backbone", "a"), [(name, "1" * 100) for name in names])
    lines = render(table, 110).splitlines()[-3:]
    assert len({line.partition("..")[0] for line in lines}) == 3
