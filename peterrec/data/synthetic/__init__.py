"""The embedded synthetic world: a log whose truth is known, so that reports can print the exact ceiling.

Letters: K topics, M personas, t = 0, 1, … the position in a user's history, `[x]` = 1 if x else 0.

**Personas.** Each user is one of M personas, drawn uniformly. A persona is a combination of four factors,
`m = ((taste·2 + drift)·2 + direction)·2 + rhythm`:

    taste      M/8 values   a pair (A, B) of preferences over topics, each with liked topics of its own
    drift      0 | 1        the taste moves from A to B | from B to A
    direction  0 | 1        steps go to the next topic on the ring of topics, d = +1 | the one before, d = −1
    rhythm     0 | 1        (stay, step, skip, s) = (.10, .28, .20, 8) | (.24, .28, .20, 16)

**Topics.** With z_t the topic of event t, A the preference where the drift begins and B where it ends:

    w_t    = 1 − 2^(−t / 15)
    θ_m,t  = (1 − w_t)·A_m + w_t·B_m
    p(z_t = k | z_<t, m) = stay·[t ≥ 1]·[k = z_{t−1}] + step·[t ≥ 1]·[k = (z_{t−1} + d) mod K]
                         + skip·[t ≥ s]·[k = z_{t−s}] + rest·θ_m,t(k)
    rest   = 1 − (stay + step)·[t ≥ 1] − skip·[t ≥ s]

**Items.** Each item belongs to one topic; q_k(i) ∝ (rank of i in k)^(−zipf). With n_i and n_k the numbers of
earlier events of this user with item i and with topic k:

    p(i | z_t = k, history) = (1 − ρ)·q_k(i) + ρ·n_i / n_k,   ρ = repeat·[n_k > 0]

so that the item, given its topic, says nothing more about the persona, and p(history | m) is a product.

**Attributes** (gender, age, occupation) are independent given the persona: p(c | m) are the tables of
`Parameters`. Gender hangs on the taste (what occurs) and, for the larger part, on drift, direction and rhythm
(in which order); age on taste and rhythm; occupation on taste, drift and direction.

**Target domain.** Each user has 1 + Geometric(.4) interactions, at most 8, with items of another set, each
drawn from p(j | m) = φ_m(topic of j)·q(j); φ hangs on taste, drift and direction. With `related=False`
attributes and target domain follow a second persona, drawn independently of the first: the negative control.

**Lengths** are log-normal (σ = .6), clipped. **Times** are whole seconds with ties; among them the order of
the rows is the order of the history.

**Impressions.** A user opens 2 + Geometric(1/3) lists, at most 12, from 10 minutes after the last event of the
history on, 1.5 days apart: some lie between events of the target domain. A list is opened in a domain d (a section
of the app: home .6, search .3, deals .1) on a device v (phone .6, tablet .1, desktop .3; mostly the user's own),
neither of which hangs on the persona. It shows 6 to 10 different items of the target domain, drawn by
popularity, in the order of quality + noise: item j of topic k stands at position r = 1, 2, … . Then, with tables
drawn for each domain, persona and topic (`ImpressionParameters`) and traits of the items,

    p(click)                 = σ(click_d,m(k) + .6·quality(j) − e_v·ln r),   e = .9 phone, .7 tablet, .5 desktop
    p(like)                  = σ(like_d,m(k)  + .4·quality(j))
    p(cart | click)          = σ(cart_d,m(k)  + .6·worth(j))
    p(conversion | cart)     = σ(from_cart_d,m(k)    + .6·worth(j))
    p(conversion | click, no cart) = σ(without_cart_d,m(k) + .6·worth(j))
    ln (seconds of dwell)    = stay_d,m(k) + .8·Normal,   after a click
    completion               = [ln (seconds of dwell) ≥ length(j)]

Each table is a base rate of the domain plus a taste, of whose own part 70 % of the variance is common to the
domains and 30 % a domain's own. The taste for clicks follows φ; that for cart and conversion follows the clicks in
part; that for likes follows them for half of the topics and turns them round for the other half: what raises one
lowers the other. A like needs no click; cart, conversion, dwell and completion do. About .2 of the impressions are
clicked, .1 of the clicks convert. With `related=False` all of it follows the second persona.

What a history tells of an impression is a mixture over personas, weighed by p(m | history); p(conversion | click)
weighs them by p(m | history)·p(click | m), since the click tells of the persona too.
"""

from peterrec.data.synthetic.histories import Histories
from peterrec.data.synthetic.impression_oracle import ImpressionProbabilities
from peterrec.data.synthetic.impression_parameters import ImpressionParameters
from peterrec.data.synthetic.impressions import Impressions
from peterrec.data.synthetic.parameters import Parameters
from peterrec.data.synthetic.settings import WorldSettings
from peterrec.data.synthetic.world import World
from peterrec.data.synthetic.world_files import PlantedRow, WorldFiles

__all__ = [
    "Histories",
    "ImpressionParameters",
    "ImpressionProbabilities",
    "Impressions",
    "Parameters",
    "PlantedRow",
    "World",
    "WorldFiles",
    "WorldSettings",
]
