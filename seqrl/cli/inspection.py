"""seqrl inspect."""

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from seqrl.algorithms import draws, load, load_speaker, read_config, rlhf
from seqrl.cli.arguments import environment_asked_for, parse, positional
from seqrl.cli.speaking import SpokenIn, check_answers, problem, prompts_for
from seqrl.config import make_environment, problem_name
from seqrl.envs import Environment
from seqrl.envs.make import may_draw
from seqrl.errors import UserError
from seqrl.inspection.dialogues import inspect_dialogues
from seqrl.inspection.episodes import Episode, total_of
from seqrl.inspection.episodes import inspect as play
from seqrl.language.reranking import RerankingAgent
from seqrl.language.utterance_steering import UtteranceAgent
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.rlhf import make_scorer
from seqrl.language_runs.rlhf_config import check_prompted
from seqrl.pages.dialogues import write_dialogues_page
from seqrl.pages.inspector import write_inspector
from seqrl.run_folder import check_spaces, read_json

PAGE = "episodes.html"


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Step through episodes of a trained agent: what it saw, did and expected, and what it remembered.

    Writes episodes.html into the run's folder: one file, to be opened in a browser.
    """

    num_episodes: int = 3
    """Episodes to play, with the seeds SEED, SEED + 1, …"""
    seed: int = 10_000
    """Seed of the first episode."""
    sample: bool = False
    """Draw actions from the policy, or take the likeliest ones; by default as the run chose (--actions of train)."""
    env: str = ""
    """Another environment than the run's, with the same spaces."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Other arguments of the environment."""
    max_steps: int = 500
    """Steps after which an episode is cut short."""


def inspect(args: list[str]) -> int:
    name, args = positional(args)
    if name is not None and (Path(name) / "vocabulary.json").is_file():
        return inspect_speaker(Path(name), args)
    options = parse(Inspect, args, Inspect(sample=draws(name)), "seqrl inspect RUN")
    if name is None:
        raise UserError("inspect needs a run folder, named first: seqrl inspect RUN")
    run = Path(name)
    config = read_config(run)
    changes = environment_asked_for(options.env, options.env_kwargs)
    config = dataclasses.replace(config, device="cpu", autoreset_mode="next_step", vectorization="auto", **changes)
    agent = load(run)
    with contextlib.closing(_that_draws(config)) as environment:
        check_spaces(run, environment.single_observation_space, environment.single_action_space)
        episodes = play(
            agent, environment, options.num_episodes, options.seed, sample=options.sample, max_steps=options.max_steps
        )
    about = {
        "title": problem_name(vars(config)),
        "kind": f"episodes · {read_json(run, 'config.json')['type']} · {getattr(config, 'memory', 'transformer')}",
        "subtitle": f"Run {run.name}, played with {_seeds(options)}, "
        + ("actions drawn from the policy." if options.sample else "the likeliest action taken."),
        "env": config.env,
        "hide": config.hide,
    }
    path = write_inspector(run / PAGE, episodes, environment.single_observation_space, about)
    returns = ", ".join(f"{total_of(episode):.4g}{_if_cut(episode)}" for episode in episodes)
    print(f"{path}: returns {returns}. Open it in a browser.")
    return 0


def _if_cut(episode: Episode) -> str:
    """What is to be said behind a return that is not an episode's whole one."""
    if episode.terminated or episode.truncated:
        return ""
    return f" (cut after {episode.num_steps} steps: --max-steps)"


def _seeds(options: Inspect) -> str:
    last = options.seed + options.num_episodes - 1
    return f"seed {last}" if last == options.seed else f"seeds {options.seed} to {last}"


@dataclass(frozen=True, kw_only=True)
class InspectSpeaker(SpokenIn):
    """Step through a speaker's conversations, token by token: how likely each was, what it was worth, what it rests on.

    Writes episodes.html into the run's folder: one file, to be opened in a browser.
    """

    num_episodes: Annotated[int, tyro.conf.arg(aliases=["--num-dialogues"])] = 3
    """Conversations to have."""
    seed: int = 10_000
    """Seed of the conversations."""
    sample: bool = False
    """Draw tokens from the probabilities; else the likeliest one is taken. Who chooses among utterances draws them."""


def inspect_speaker(run: Path, args: list[str]) -> int:
    """`seqrl inspect` for a run of what speaks."""
    options = parse(InspectSpeaker, args, InspectSpeaker(), "seqrl inspect RUN")
    config: LanguageConfig = read_config(run)
    agent = load_speaker(run)
    task, name = problem(str(run), config, options, agent.tokenizer, "a log of dialogues with --prompts")
    prompts = prompts_for(config, options)
    reward = config.reward if isinstance(config, rlhf.Config) and not options.task else ("task",)
    if prompts:
        check_answers(prompts, agent, config)
    if prompts and reward != ("task",):
        check_prompted(reward)
    talks = inspect_dialogues(
        agent, task, options.num_episodes, options.seed, sample=options.sample, max_tokens=config.max_tokens,
        scorer=make_scorer(reward, agent.tokenizer),
    )  # fmt: skip
    whole = isinstance(agent, UtteranceAgent | RerankingAgent)
    about = {
        "title": name,
        "kind": f"conversations · {read_json(run, 'config.json')['type']} · {config.model}",
        "subtitle": f"Run {run.name}, {options.num_episodes} "
        f"conversation{'s' * (options.num_episodes != 1)} from seed {options.seed}. "
        + ("Whole utterances are proposed by a policy, and one of them is chosen." if whole else
           "Tokens drawn from the policy." if options.sample else "The likeliest token taken.")
        + (f" Rewards by {' '.join(reward)}." if reward != ("task",) else ""),
        "values": "utterance" if whole else "token",
    }  # fmt: skip
    path = write_dialogues_page(run / PAGE, talks, about)
    earned = "" if prompts and reward == ("task",) else f"returns {', '.join(f'{talk.total:.4g}' for talk in talks)}. "
    print(f"{path}: {earned}Open it in a browser.")
    return 0


def _that_draws(config: Any) -> Environment:
    """The environment, drawing frames where it can. What fails in drawing is left undrawn."""
    if not config.env or not may_draw(config.env):
        return make_environment(config, 1)
    for name, value in (("PYGAME_HIDE_SUPPORT_PROMPT", "1"), ("SDL_VIDEODRIVER", "dummy")):
        os.environ.setdefault(name, value)  # pygame neither greets nor asks for a screen: frames are arrays
    kwargs = (*config.env_kwargs, "render_mode=rgb_array")
    try:
        environment = make_environment(dataclasses.replace(config, env_kwargs=kwargs), 1)
    except UserError:
        return make_environment(config, 1)
    try:
        environment.reset(0)
        environment.render()
    except Exception:  # whatever its drawing library raises where there is no screen
        environment.close()
        return make_environment(config, 1)
    return environment
