"""The models of ratings by name, the plainest first."""

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.global_mean import GlobalMean
from peterrec.baselines.ratings.integrated import Integrated
from peterrec.baselines.ratings.latent_factors import LatentFactors
from peterrec.baselines.ratings.nearest import ItemNeighbours, UserNeighbours
from peterrec.baselines.ratings.neighbourhood import Neighbourhood
from peterrec.baselines.ratings.ratings import RatingModel
from peterrec.baselines.ratings.svd_plus_plus import SVDPlusPlus

MODELS: dict[str, type[RatingModel]] = {
    "global_mean": GlobalMean,
    "biases": BiasBaseline,
    "item_neighbours": ItemNeighbours,
    "user_neighbours": UserNeighbours,
    "neighbourhood": Neighbourhood,
    "latent_factors": LatentFactors,
    "svd_plus_plus": SVDPlusPlus,
    "integrated": Integrated,
}
