"""Faults of private runs: noise that is missing or too small, a wrong sensitivity, a release without account; and of
messages of few bits."""

from __future__ import annotations

from worlds.planting import Fault, edited

ROUND = "a private round is the clipped sum and noise of the promised size"
COUNTS = "no client moves noisy counts by more than their noise goes by"
ACCOUNT = "a private run accounts for all that leaves its clients"
FEW_BITS = "messages of few bits lose less than a step and are billed as packed"
STEPS = "messages in steps hold what is sent and are billed by their codes"
CODES = "codes of whole numbers lose nothing and are the shortest of their family"
MEAN_OF_BITS = "updates of few bits have the update as their mean"
BANDS = "noise that reaches over rounds is fresh noise through the inverse of a dense matrix"
TURNS = "clients that take turns rest for a band and each turn is paid for"
LARGEST = "of updates whose largest numbers travel the rest waits at the client"
NOISE = "fedmm.federation.transforms.noise:noise"
START = "fedmm.federation.private_start"
BITS = "fedmm.federation.compression"
CANARIES = "canaries in private rounds show less than the account says"
UPDATES = "what updates tell of a client's items is counted pair by pair"
INTERACTIONS = "fedmm.audit.interactions"
FAULTS = (
    Fault(
        "the first of the louder rows is left out",
        (UPDATES,),
        edited(f"{INTERACTIONS}:louder", "order[best + 1 :]", "order[best + 2 :]"),
    ),
    Fault(
        "an attack compares own items with all",
        (UPDATES,),
        edited(f"{INTERACTIONS}:_membership", "evidence[~inside]", "evidence"),
    ),
    Fault(
        "a tenth of the noise",
        (CANARIES,),
        edited(NOISE, "turn.noise_multiplier * bound.norm", "0.1 * turn.noise_multiplier * bound.norm"),
    ),
    Fault(
        "a round without noise",
        (ROUND,),
        edited(NOISE, "turn.noise_multiplier * bound.norm", "0 * turn.noise_multiplier * bound.norm"),
    ),
    Fault(
        "replaced clients as if added",
        (ROUND,),
        edited(NOISE, "* turn.contributions", "* 1"),
    ),
    Fault(
        "the same noise every round",
        (ROUND,),
        edited(NOISE, ', "privacy noise", number', ', "privacy noise"'),
    ),
    Fault(
        "updates are not clipped",
        (ROUND,),
        edited("fedmm.federation.transforms.clipping:_clipped", "limit / norms.clamp(min=limit)", "1.0"),
    ),
    Fault(
        "holders of long histories count in full",
        (COUNTS,),
        edited(f"{START}:client_holders", "min(1.0, CLIP / math.sqrt(max(len(items), 1)))", "1.0"),
    ),
    Fault(
        "pairs are not bounded",
        (COUNTS,),
        edited(f"{START}:client_pairs", "CLIP / max(norm, CLIP)", "1.0"),
    ),
    Fault(
        "noise of counts as if one number",
        (COUNTS,),
        edited("fedmm.federation.private_parts:noisy_start", "CLIP * plan.contributions", "1.0 * plan.contributions"),
    ),
    Fault(
        "the start is not accounted for",
        (ACCOUNT,),
        edited("fedmm.privacy.plan:PrivacyPlan.releases", "(*counts, updates)", "(updates,)"),
    ),
    Fault(
        "one round is accounted for",
        (ACCOUNT,),
        edited("fedmm.privacy.plan:PrivacyPlan.releases", "rate, visits,", "rate, 1,"),
    ),
    Fault(
        "all visits of a client are accounted for as one",
        (TURNS,),
        edited("fedmm.privacy.plan:PrivacyPlan.releases", "math.ceil(rounds_done / self.bands)", "min(rounds_done, 1)"),
    ),
    Fault(
        "a turn is accounted for as a round of anybody",
        (TURNS,),
        edited("fedmm.privacy.plan:PrivacyPlan.releases", "min(1.0, self.bands * self.rate)", "self.rate"),
    ),
    Fault(
        "clients come out of turn",
        (TURNS,),
        edited(
            "fedmm.federation.private_rounds:draw_turn", "(round_number - 1) % bands", "(round_number // 2) % bands"
        ),
    ),
    Fault(
        "bands make noise smaller than their columns",
        (BANDS,),
        edited("fedmm.privacy.banded:coefficients", "value / norm for", "value for"),
    ),
    Fault(
        "noise is taken back from the wrong round",
        (BANDS,),
        edited(NOISE, "turn.number - age", "turn.number - (age + 1) // 2"),
    ),
    Fault(
        "control variates leave unaccounted",
        (ACCOUNT,),
        edited(
            "fedmm.config.private_clashes:_clashes", 'own.local_algorithm == "scaffold"', 'own.local_algorithm == ""'
        ),
    ),
    Fault(
        "few bits are rounded to the nearest",
        (MEAN_OF_BITS,),
        edited(f"{BITS}:coded", "0.5 if chance is None else chance.to(value)", "0.5"),
    ),
    Fault(
        "all clients round by the same chance",
        (MEAN_OF_BITS,),
        edited(f"{BITS}:chances", "number, int(client)", "number"),
    ),
    Fault(
        "clients begin from exact parameters",
        (FEW_BITS,),
        edited(f"{BITS}:downloaded", "if bits is None", "if True"),
    ),
    Fault(
        "few bits are billed as bytes",
        (FEW_BITS,),
        edited(f"{BITS}:coded_message", "value.numel() * bits // 8", "value.numel()"),
    ),
    Fault(
        "steps are billed at half their code",
        (STEPS,),
        edited("fedmm.federation.step_updates:_received", "coded_length(np.concatenate(steps))", "8"),
    ),
    Fault(
        "steps are no power of two times the largest number",
        (STEPS,),
        edited("fedmm.federation.step_updates:unstepped", "numbers.to(torch.float64)", "numbers.double() * 1.1"),
    ),
    Fault(
        "whoever was away receives the last change alone",
        (STEPS,),
        edited(
            "fedmm.federation.versions:Versions.after",
            "visits[clients] = self.number",
            "visits[:] = self.number",
        ),
    ),
    Fault(
        "what is held back is forgotten",
        (LARGEST,),
        edited("fedmm.federation.largest_updates:_split", 'value + before[f"{PREFIX}{name}"].to(value)', "value"),
    ),
    Fault(
        "what was sent is held back as well",
        (LARGEST,),
        edited(
            "fedmm.federation.largest_updates:_split", "there, torch.zeros_like(whole), whole", "there, whole, whole"
        ),
    ),
    Fault(
        "places are billed as bits",
        (LARGEST,),
        edited(
            "fedmm.federation.largest_updates:_split", "coded_length(np.diff(own, prepend=-1) - 1)", "len(own) // 8"
        ),
    ),
    Fault(
        "codes forget signs",
        (CODES,),
        edited("fedmm.federation.rice:encode", "values[places] < 0", "values[places] < -9"),
    ),
)
