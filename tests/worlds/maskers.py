"""Silos that know masks alone, and a server that asks them for one sum."""

import numpy as np

from fedmm.config import ExperimentConfig
from fedmm.deployment import masked_answers
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.masked_sums import MaskedSums
from fedmm.deployment.masks import SiloMasks
from fedmm.deployment.members import LeadOptions, Members
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.deployment.seals import Checksums
from fedmm.deployment.transport import InProcess

SEAL = Checksums()
CONFIG, PART = ExperimentConfig(), masked_answers.Part(1)
WIDTH = 3


class Masker:
    """A silo that knows masks alone, anew for every message where it has a folder; lost are answers of ``silent``."""

    def __init__(self, name, words, folder=None):
        self.name, self.words, self.folder, self.silent, self.sent = name, words, folder, set(), []
        self.asked = []
        self.masks = SiloMasks(name, folder)

    def answer(self, data):
        header = read_header(SEAL.open(data, "server"))
        request = header.message
        self.asked.append(request.kind)
        masks = SiloMasks(self.name, self.folder) if self.folder else self.masks
        try:
            if request.kind == "count":
                purpose = masked_answers.purpose_of(header, CONFIG, f"sum {request.round}", PART)
                found = masked_answers.hidden(masks, header, Message("sums"), self.words, purpose)
                self.sent.append(found.tensors["masked"].numpy().view(np.uint32))
            else:
                found = masked_answers.answer(masks, request, CONFIG)
        except RefusedError as error:
            found = Message("refused", {"why": str(error)})
        if request.kind in self.silent:
            return b"lost"
        stamped = Message(found.kind, found.body, found.tensors, request.session, request.sequence, node=self.name)
        return SEAL.close(encode(stamped))


def maskers(number, folder=None, width=WIDTH):
    stream = np.random.default_rng(number)
    drawn = stream.integers(2**32, size=(number, width), dtype=np.uint32)
    names = [f"silo{place:02d}" for place in range(number)]
    return {name: Masker(name, drawn[place], folder and folder / name) for place, name in enumerate(names)}


def total_of(silos, again=lambda: None, least=2, line=InProcess, heard=None, plausible=lambda _: None):
    told = []
    conversation = Conversation(line({name: own.answer for name, own in silos.items()}), grace=0.0)
    config = ExperimentConfig()
    options = LeadOptions(deadline=10.0, wait=0.0)
    members = Members(config, Catalogue(np.array(["", "a"])), conversation, options, told.append, config)
    if heard is not None:
        heard.append(members)
    asked = dict.fromkeys(silos, Message("count", {"what": "words"}))
    found = MaskedSums(members).total(
        asked, WIDTH, lambda node, own: None, lambda there: len(there) >= least, again, plausible
    )
    return found, members, told


def plain_sum(silos, names):
    return sum((silos[name].words for name in names), np.zeros(WIDTH, dtype=np.uint32))
