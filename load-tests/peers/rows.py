"""What both peers share: the request of a page, and its answer as rows of the plain table."""

import os
from datetime import datetime, timezone
from decimal import Decimal

SEARCH = "/bapi/c2c/v2/friendly/c2c/adv/search"
COLUMNS = (
    "batch_id extraction_timestamp fiat asset trade_type page rank adv_no price available_amount tradable_quantity "
    "min_limit max_limit dynamic_max_limit min_quantity max_quantity dynamic_max_quantity commission_rate "
    "pay_time_limit_minutes payment_methods classify is_tradable asset_scale fiat_scale price_scale user_no nickname "
    "user_type user_identity user_grade month_order_count completion_rate positive_rate active_seconds"
).split()


def database_url():
    """Without its options, which are those of another client."""
    return os.environ["DATABASE_URL"].split("?")[0]


def body(page):
    fiat, asset, side, number = page
    return {
        "fiat": fiat,
        "page": number,
        "rows": 20,
        "tradeType": side,
        "asset": asset,
        "countries": [],
        "proMerchantAds": False,
        "shieldMerchantAds": False,
        "publisherType": None,
        "payTypes": [],
        "classifies": ["mass", "profession", "fiat_trade"],
    }


def decimal(value):
    return None if value is None else Decimal(str(value))


def rows(batch, page, answer):
    """Rows of a page, and the total that it declares."""
    if answer.get("code") != "000000":
        raise ValueError(f"{page}: {answer.get('code')} {answer.get('message')}")
    fiat, asset, side, number = page
    at = datetime.now(timezone.utc)
    out = []
    for rank, item in enumerate(answer["data"] or [], start=(number - 1) * 20 + 1):
        adv, who = item["adv"], item["advertiser"]
        out.append((
            batch, at, fiat, asset, side, number, rank, adv["advNo"],
            Decimal(adv["price"]), Decimal(adv["surplusAmount"]), decimal(adv["tradableQuantity"]),
            Decimal(adv["minSingleTransAmount"]), Decimal(adv["maxSingleTransAmount"]),
            decimal(adv["dynamicMaxSingleTransAmount"]), decimal(adv["minSingleTransQuantity"]),
            decimal(adv["maxSingleTransQuantity"]), decimal(adv["dynamicMaxSingleTransQuantity"]),
            decimal(adv["commissionRate"]), adv["payTimeLimit"],
            [method["identifier"] for method in adv["tradeMethods"]], adv["classify"], adv["isTradable"],
            adv["assetScale"], adv["fiatScale"], adv["priceScale"],
            who["userNo"], who["nickName"], who["userType"], who["userIdentity"], who["userGrade"],
            who["monthOrderCount"], decimal(who["monthFinishRate"]), decimal(who["positiveRate"]),
            who["activeTimeInSecond"],
        ))
    return out, answer.get("total")
