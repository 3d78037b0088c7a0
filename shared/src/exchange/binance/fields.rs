//! What of the exchange's answers is not kept, and why. A test holds it against every capture.

/// Fields that no column holds, each with the reason. Written as in the comments of columns: the object
/// and the field, and a `*` at the end for all fields that begin so.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("answer.message", "says why an answer is an error; it is in pipeline.jobs.detail then"),
    ("answer.messageDetail", "null in every capture but errors, whose code says enough"),
    ("data[].privilegeDesc", "a caption for privilegeType, which is kept"),
    (
        "data[].privilegeTypeAdTotalCount",
        "counts the promoted ads of the answer, which privilegeType shows",
    ),
    ("adv.abnormalStatusList", "null in every capture"),
    ("adv.adAdditionalKycVerifyItems", "null in every capture"),
    ("adv.adTradeInstructionTagInfoRets", "empty in every capture"),
    (
        "adv.advVisibleRet",
        "whom the site shows the ad: 1 in every capture that fills it, for a hidden ad is not listed",
    ),
    ("adv.allowTradeMerchant", "null in every capture"),
    ("adv.assetLogo", "decoration: the address of a picture"),
    ("adv.assetVo", "null in every capture"),
    ("adv.closeReason", "null in every capture: a closed ad is not listed"),
    ("adv.currencyRate", "null in every capture"),
    ("adv.fiatSymbol", "of the fiat, not of the ad: dim_fiat_currencies.currency_symbol"),
    ("adv.fiatVo", "null in every capture"),
    ("adv.inventoryType", "null in every capture"),
    ("adv.invisible*", "null in every capture: an invisible ad is not listed"),
    ("adv.isStarTrader*", "null in every capture"),
    ("adv.launchCountry", "null in every capture"),
    ("adv.minFiatAmountForAdditionalKyc", "null in every capture"),
    ("adv.nonTradableRegions", "null in every capture"),
    ("adv.offlineReason", "null in every capture: an ad that is offline is not listed"),
    ("adv.privilegeType", "null in every capture; the field of this name beside adv is kept"),
    ("adv.redirect*", "null in every capture; a way into the exchange's app"),
    ("adv.storeInformation", "null in every capture"),
    ("adv.tradeMethodCommissionRates", "null or empty in every capture"),
    ("adv.tradeMethods[].iconUrlColor", "decoration: the address of a picture"),
    ("adv.tradeMethods[].tradeMethodBgColor", "decoration: a colour"),
    ("adv.tradeMethods[].payType", "null or the same as identifier, which is the key"),
    ("adv.tradeMethods[].id", "null in every capture"),
    ("adv.tradeMethods[].payId", "null in every capture: the advertiser's own account, not public"),
    ("adv.tradeMethods[].payMethodId", "empty in every capture"),
    (
        "adv.tradeMethods[].payAccount",
        "null in every capture: the advertiser's own account, not public",
    ),
    (
        "adv.tradeMethods[].payBank",
        "null in every capture: the advertiser's own account, not public",
    ),
    (
        "adv.tradeMethods[].paySubBank",
        "null in every capture: the advertiser's own account, not public",
    ),
    ("advertiser.email", "null in every capture: not public"),
    ("advertiser.mobile", "null in every capture: not public"),
    ("advertiser.realName", "null in every capture: not public"),
    ("advertiser.margin", "null in every capture of the search; advertiser_profiles has it"),
    ("advertiser.marginUnit", "null in every capture of the search; advertiser_profiles has it"),
    ("advertiser.orderCount", "null in every capture of the search; advertiser_profiles has it"),
    ("advertiser.redirect*", "null in every capture; a way into the exchange's app"),
    (
        "advertiser.registrationTime",
        "null in every capture; dim_advertisers.registered_on comes from registerDays",
    ),
    ("advertiser.tagIconUrls", "decoration, and empty in every capture"),
    ("proMerchant.merchantLogo", "decoration: the address of a picture"),
    (
        "userDetailVo.nickName",
        "identity is left to the search, which tells it of every ad; masked here for some",
    ),
    ("userDetailVo.userGrade", "identity is left to the search"),
    ("userDetailVo.userGradeInstanceRet", "null in every capture"),
    ("userDetailVo.userIdentity", "identity is left to the search"),
    ("userDetailVo.userType", "identity is left to the search"),
    ("userDetailVo.badges", "identity is left to the search"),
    ("userDetailVo.vipLevel", "identity is left to the search"),
    ("userDetailVo.proMerchant", "identity is left to the search"),
    ("userDetailVo.isBlocked", "identity is left to the search; null in every capture"),
    (
        "userDetailVo.monthOrderCount",
        "figures of 30 days are left to the search; completedOrderNumOfLatest30day is kept",
    ),
    (
        "userDetailVo.monthFinishRate",
        "figures of 30 days are left to the search; finishRateLatest30day is kept",
    ),
    ("userDetailVo.positiveRate", "left to the search, which tells it of every ad"),
    (
        "userDetailVo.activeTimeInSecond",
        "of the moment: book_pages.active_minutes has it of every reading of an ad",
    ),
    ("userDetailVo.lastActiveTime", "the same as an instant"),
    (
        "userDetailVo.registrationTime",
        "null in every capture; dim_advertisers.registered_on comes from registerDays",
    ),
    ("userDetailVo.companyAccountName", "empty in every capture"),
    ("userDetailVo.alertEnabled", "about the one who asks; null in every capture"),
    ("userDetailVo.isFollowing", "about the one who asks; null in every capture"),
    ("userDetailVo.businessStatus", "null in every capture"),
    ("userDetailVo.chanelInvolved", "null in every capture"),
    ("userDetailVo.decimalScale", "null in every capture"),
    ("userDetailVo.mobile", "null in every capture: not public"),
    ("userDetailVo.onlineStatus", "null in every capture"),
    ("userDetailVo.overComplained", "null in every capture"),
    ("userDetailVo.payMethodCount", "null in every capture"),
    ("userDetailVo.tradeOrderCount", "null in every capture"),
    ("userStatsRet.payMethodCount", "null in every capture"),
    ("userKycRet.kycType", "the same as userDetailVo.kycType"),
    ("fiat-list[].iconUrl", "decoration: the address of a picture"),
    ("fiat-list[].description", "null where it was seen"),
    ("portal/config.fiat", "the fiat that was asked for"),
    ("portal/config.filterDefaultValues", "what the site's filters are set to at first"),
    ("areas[].proMerchantFilterAvailable", "which filters the site shows"),
    ("tradeSides[].convertAssets", "assets that the site offers to convert into after a trade"),
    ("tradeSides[].tradeMethods", "identifiers only; filter-conditions tells them with names"),
    ("assets[].iconUrl", "decoration: the address of a picture"),
    ("filter-conditions.countries", "countries by which the site lets filter"),
    ("filter-conditions.periods", "payment times by which the site lets filter"),
    ("filter-conditions.preferredCountry", "where the site takes the visitor to be"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use serde_json::{Map, Value};

    use super::super::names::names;
    use super::super::{lists, wire};
    use super::LEFT_OUT;

    /// What a capture holds beyond the answer: columns that the collector added.
    const COLLECTORS_OWN: [&str; 2] = ["source", "timestamp"];

    /// Fields that are neither read nor left out.
    #[derive(Default)]
    struct Walk {
        unknown: BTreeSet<String>,
        items: usize,
        used: BTreeSet<&'static str>,
    }

    impl Walk {
        fn check(&mut self, object: &str, field: &str, read: &[&str]) -> bool {
            if read.contains(&field) {
                return true;
            }
            let path = format!("{object}.{field}");
            let matches = |pattern: &str| match pattern.strip_suffix('*') {
                Some(start) => path.starts_with(start),
                None => path == *pattern,
            };
            let left_out = LEFT_OUT.iter().find(|(pattern, _)| matches(pattern));
            self.used.extend(left_out.map(|(pattern, _)| *pattern));
            left_out.is_some()
        }

        fn fields(&mut self, object: &str, members: &Map<String, Value>, read: &[&str]) {
            for field in members.keys() {
                if !self.check(object, field, read) {
                    self.unknown.insert(format!("{object}.{field}"));
                }
            }
        }

        fn adv(&mut self, adv: &Map<String, Value>) {
            self.items += 1;
            self.fields("adv", adv, names::<wire::Adv<'_>>());
            for method in adv.get("tradeMethods").and_then(Value::as_array).into_iter().flatten() {
                let read = names::<wire::TradeMethod<'_>>();
                self.fields("adv.tradeMethods[]", method.as_object().unwrap(), read);
            }
        }

        fn advertiser(&mut self, advertiser: &Map<String, Value>) {
            self.fields("advertiser", advertiser, names::<wire::Advertiser<'_>>());
            if let Some(Value::Object(pro)) = advertiser.get("proMerchant") {
                self.fields("proMerchant", pro, names::<wire::ProMerchant<'_>>());
            }
        }

        /// A row of a table: columns of ad and advertiser, with prefixes or without.
        fn row(&mut self, row: &Map<String, Value>) {
            self.items += 1;
            let (adv, advertiser) = (names::<wire::Adv<'_>>(), names::<wire::Advertiser<'_>>());
            let item = names::<wire::Item<'_>>();
            for column in row.keys().filter(|column| !COLLECTORS_OWN.contains(&column.as_str())) {
                let is_known = match column.split_once('.') {
                    Some(("adv", field)) => self.check("adv", field, adv),
                    Some(("advertiser", field)) => self.check("advertiser", field, advertiser),
                    _ => {
                        self.check("adv", column, adv)
                            || self.check("advertiser", column, advertiser)
                            || self.check("data[]", column, item)
                    }
                };
                if !is_known {
                    self.unknown.insert(column.clone());
                }
            }
        }

        /// The page of an advertiser as its collector kept it: the figures beside the rest.
        fn profile(&mut self, page: &Map<String, Value>) {
            let stats = names::<wire::UserStats<'_>>();
            for (field, value) in page {
                match (field.as_str(), value) {
                    ("buy_list" | "sell_list", Value::Object(ads)) => {
                        ads.values().for_each(|ad| self.adv(ad.as_object().unwrap()));
                    }
                    ("userStatsRet", Value::Object(inner)) => {
                        self.fields("userStatsRet", inner, stats);
                    }
                    ("userKycRet", Value::Object(inner)) => {
                        self.fields("userKycRet", inner, names::<wire::UserKyc<'_>>());
                    }
                    (field, _) => {
                        if !stats.contains(&field)
                            && !self.check("userDetailVo", field, names::<wire::UserDetail<'_>>())
                        {
                            self.unknown.insert(format!("userDetailVo.{field}"));
                        }
                    }
                }
            }
        }

        fn config(&mut self, config: &Map<String, Value>) {
            self.items += 1;
            self.fields("portal/config", config, names::<lists::PortalConfig>());
            let list = |object: &Map<String, Value>, field: &str| -> Vec<Map<String, Value>> {
                let items = object.get(field).and_then(Value::as_array).into_iter().flatten();
                items.map(|item| item.as_object().unwrap().clone()).collect()
            };
            for area in list(config, "areas") {
                self.fields("areas[]", &area, names::<lists::Area>());
                for side in list(&area, "tradeSides") {
                    self.fields("tradeSides[]", &side, names::<lists::TradeSide>());
                    for asset in list(&side, "assets") {
                        self.fields("assets[]", &asset, names::<lists::AreaAsset>());
                    }
                }
            }
        }

        fn document(&mut self, value: &Value) {
            let object = match value {
                Value::Array(items) => return items.iter().for_each(|item| self.document(item)),
                Value::Object(object) => object,
                other => panic!("no answer: {other}"),
            };
            let has = |field: &str| object.contains_key(field);
            if has("adv") {
                self.fields("data[]", object, names::<wire::Item<'_>>());
                self.adv(object["adv"].as_object().unwrap());
                self.advertiser(object["advertiser"].as_object().unwrap());
            } else if has("anuncios") {
                self.document(&object["anuncios"]);
            } else if has("buy_list") {
                self.profile(object);
            } else if has("code") {
                self.fields("answer", object, &["code", "message", "data", "total", "success"]);
                self.document(&object["data"]);
            } else if has("areas") {
                self.config(object);
            } else if has("advNo") || has("adv.advNo") {
                self.row(object);
            } else {
                panic!("no answer: {object:?}");
            }
        }
    }

    fn captures() -> Vec<PathBuf> {
        let mut folders = vec![Path::new("../fixtures/binance").to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                // Totals that somebody computed are no answers.
                if path.is_dir() && !path.ends_with("market") {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "json") {
                    files.push(path);
                }
            }
        }
        files
    }

    #[test]
    fn every_field_of_every_capture_is_read_or_left_out() {
        let mut walk = Walk::default();
        let files = captures();
        assert!(files.len() > 100, "{}", files.len());
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            match serde_json::from_str::<Value>(&text) {
                Ok(document) => walk.document(&document),
                Err(_) => text.lines().for_each(|line| {
                    walk.document(&serde_json::from_str(line).unwrap());
                }),
            }
        }
        assert_eq!(walk.unknown, BTreeSet::new(), "read it, or name it in LEFT_OUT");
        assert!(walk.items > 2_000, "{}", walk.items);
        // What is named and never met must be of a call of which there is no capture, or of 2026 answers
        // that API notes tell of.
        let unmet: Vec<&str> = LEFT_OUT
            .iter()
            .map(|(pattern, _)| *pattern)
            .filter(|pattern| !walk.used.contains(pattern))
            .collect();
        insta::assert_debug_snapshot!(unmet);
    }

    #[test]
    fn nothing_is_both_read_and_left_out() {
        let read = [
            ("adv", names::<wire::Adv<'_>>()),
            ("advertiser", names::<wire::Advertiser<'_>>()),
            ("data[]", names::<wire::Item<'_>>()),
            ("userStatsRet", names::<wire::UserStats<'_>>()),
            ("userKycRet", names::<wire::UserKyc<'_>>()),
        ];
        for (object, fields) in read {
            for field in fields {
                let path = format!("{object}.{field}");
                assert!(LEFT_OUT.iter().all(|(left_out, _)| *left_out != path), "{path}");
            }
        }
    }
}
