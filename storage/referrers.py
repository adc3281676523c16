"""Which names the sites people come from go by. Hides the table and how a host is looked up in it.

The names are those analytics tools have made common (google, facebook). A host that is none of these is its
own name.
"""

# Brands that stand under many country endings: google.de, yahoo.co.jp, yandex.com.tr.
_BRANDS = frozenset(
    {"amazon", "bing", "ebay", "ecosia", "google", "pinterest", "qwant", "startpage", "yahoo", "yandex"}
)

_HOSTS = {
    host: name
    for name, hosts in {
        # Search.
        "baidu": "baidu.com",
        "brave": "search.brave.com",
        "duckduckgo": "duckduckgo.com duck.com",
        "google": "com.google.android.googlequicksearchbox googleadservices.com doubleclick.net",
        "kagi": "kagi.com",
        "naver": "naver.com",
        "seznam": "seznam.cz",
        "sogou": "sogou.com",
        "yandex": "ya.ru",
        # Assistants.
        "chatgpt": "chatgpt.com chat.openai.com",
        "claude": "claude.ai",
        "copilot": "copilot.microsoft.com",
        "deepseek": "deepseek.com",
        "gemini": "gemini.google.com bard.google.com",
        "mistral": "chat.mistral.ai",
        "perplexity": "perplexity.ai",
        # Social.
        "bluesky": "bsky.app",
        "discord": "discord.com discordapp.com",
        "facebook": "facebook.com fb.com fb.me messenger.com com.facebook.katana",
        "hackernews": "news.ycombinator.com",
        "instagram": "instagram.com com.instagram.android",
        "linkedin": "linkedin.com lnkd.in com.linkedin.android",
        "mastodon": "mastodon.social mastodon.online",
        "medium": "medium.com",
        "pinterest": "pin.it com.pinterest",
        "quora": "quora.com",
        "reddit": "reddit.com redd.it com.reddit.frontpage",
        "slack": "slack.com com.slack",
        "snapchat": "snapchat.com",
        "stackoverflow": "stackoverflow.com",
        "telegram": "t.me telegram.org org.telegram.messenger",
        "threads": "threads.net threads.com",
        "tiktok": "tiktok.com",
        "tumblr": "tumblr.com t.umblr.com",
        "twitch": "twitch.tv",
        "twitter": "twitter.com x.com t.co com.twitter.android",
        "vk": "vk.com vk.ru",
        "wechat": "weixin.qq.com",
        "weibo": "weibo.com weibo.cn",
        "whatsapp": "whatsapp.com wa.me com.whatsapp",
        "wikipedia": "wikipedia.org",
        "xing": "xing.com",
        "youtube": "youtube.com youtu.be com.google.android.youtube",
        # Mail, as far as it shows.
        "gmail": "mail.google.com com.google.android.gm",
        "outlook": "outlook.com outlook.live.com outlook.office.com outlook.office365.com",
        "yahoo-mail": "mail.yahoo.com",
        # Code and commerce.
        "etsy": "etsy.com",
        "github": "github.com",
        "gitlab": "gitlab.com",
        "producthunt": "producthunt.com",
    }.items()
    for host in hosts.split()
}

_GENERIC_ENDINGS = frozenset({"com", "net", "org"})
_SECOND_LEVELS = frozenset({"ac", "co", "com", "ne", "net", "or", "org"})


def source_of_host(host: str) -> str:
    """Name the site of a lower-case host; one the table lacks is named by itself, without `www.`."""
    host = host.removeprefix("www.")
    labels = host.split(".")
    for first in range(len(labels)):
        if name := _HOSTS.get(".".join(labels[first:])):
            return name
        if labels[first] in _BRANDS and _is_ending(labels[first + 1 :]):
            return labels[first]
    return host


def _is_ending(labels: list[str]) -> bool:
    match labels:
        case [top]:
            return len(top) == 2 or top in _GENERIC_ENDINGS
        case [second, top]:
            return len(top) == 2 and second in _SECOND_LEVELS
    return False
