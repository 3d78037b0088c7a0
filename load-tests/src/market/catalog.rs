//! What the exchange offers: fiats with price levels and sizes, assets, payment methods.
//!
//! Totals and price levels of 50 fiats are measured (`fixtures/binance/market`); the rest of the
//! list is there with rough levels and guessed sizes. Payment methods are named as in the captures
//! where there are captures.

use rust_decimal::Decimal;
use serde::Deserialize;

const MEASURED: &str =
    include_str!("../../../fixtures/binance/market/usdt-53-fiats-totals-and-medians-2026-09.json");

/// Fiats of the list of 2026-10 without measured sizes: code, USDT level, ads on BUY, ads on SELL.
const GUESSED: &str = "\
USD 1.004 110 190|CNY 7.08 160 330|BRL 5.41 70 90|GBP 0.752 60 80|CAD 1.393 30 40|AUD 1.528 30 45
THB 32.4 30 60|JPY 154.2 20 25|HKD 7.78 40 50|TWD 31.1 25 45|UZS 11950 40 90|DOP 62.9 35 60
CRC 503 15 25|GTQ 7.7 12 22|HNL 26.2 12 25|NIO 36.9 8 16|PYG 7050 20 35|UYU 39.8 18 24
PAB 1.01 10 14|KGS 87.5 30 60|TJS 9.3 10 20|BYN 3.1 8 12|MDL 17.2 12 18|RSD 101 8 10
ALL 83.5 3 6|BAM 1.69 0 1|MKD 53 0 2|SEK 9.5 8 9|ISK 127 0 1|CVE 95.1 0 2
BHD 0.378 12 22|OMR 0.386 10 30|YER 1625 6 22|LYD 7.9 8 30|GMD 72 3 14|GNF 8700 6 20
SLE 23.1 2 9|LRD 184 1 5|MRU 40 4 12|DJF 178 1 3|ERN 15 0 0|SOS 571 0 2
BIF 7200 2 12|CDF 2330 4 14|MGA 4500 5 16|MWK 4030 2 15|NAD 17.4 0 4|SCR 14.6 0 1
KMF 428 0 1|HTG 131.4 1 6|JMD 161 0 3|TTD 7.4 0 2|BSD 1 0 0|BZD 2.02 0 0
KYD 0.84 0 0|MOP 8.04 0 1|NZD 1.75 6 8|PGK 4.3 0 3|TMT 19.6 1 6|ZWG 26.8 0 2";

/// Fiats that nobody lists any more but that still answer.
const DELISTED: &str = "NGN GHS ETB RUB EUR KRW MYR SGD PLN HUF NOK IRR";

/// Assets: symbol, USD price, scale of quantities, share of the ads that are not USDT.
const ASSETS: &str = "\
USDT 1 2 0|BTC 91250.4 8 200|USDC 1.0004 2 330|FDUSD 0.9985 2 120|BNB 905.2 8 100|ETH 3120.75 8 110
DAI 0.9991 8 50|SOL 141.3 8 25|XRP 2.21 2 20|DOGE 0.1602 2 12|ADA 0.4715 2 12|TRUMP 7.02 2 6
WLD 0.743 2 6|SHIB 0.00000876 2 9";

/// Payment methods: fiat (`*` any), identifier, name, short name (empty: null), colour.
const METHODS: &str = "\
*;BANK;Bank Transfer;Bank Transfer;#F0B90B
*;SpecificBank;Bank Transfer (Specific Bank);;#F0B90B
*;CashDeposit;Cash Deposit to Bank;Cash Deposit;#F0B90B
*;Wise;Wise;Wise;#9FE870
*;AirTM;AirTM;AirTM;#02AFED
*;SkrillMoneybookers;Skrill (Moneybookers);Skrill (Moneybookers);#862165
*;Advcash;AdvCash;;#5CB85C
*;MobileTopUp;Mobile top-up;;#F0B90B
*;WesternUnion;Western Union;;#FFDD00
*;NETELLER;NETELLER;NETELLER;#83BA3B
BOB;BancoUnion;Banco Union;Banco Union;#00AEEF
BOB;BancoEconomico;Banco Economico;;#E7142A
BOB;BancoGanadero;Banco Ganadero;Banco Ganadero;#80BF00
BOB;BancoDeCredito;Banco de Credito;;#FF7B00
BOB;BancoDeBolivia;Banco Nacional de Bolivia;;#26B460
BOB;BancoSolidario;Banco Solidario;Banco Solidario;#F0B90B
USD;Zinli;Zinli;;#6B2FF5
USD;MercantilBankPanama;Mercantil Bank Panama;Mercantil Bank Panama;#0B4EA2
USD;ACHXpressPanama;ACH Xpress Panamá;ACH Xpress Panamá;#F0B90B
VES;Banesco;Banesco;Banesco;#007953
VES;PagoMovil;Pago Movil;Pago Movil;#F0B90B
VES;Mercantil;Mercantil;;#0B4EA2
VES;Provincial;BBVA Provincial;Provincial;#004481
UAH;Monobank;Monobank;Monobank;#111111
UAH;PrivatBank;PrivatBank;Privat Bank (Universal Card);#8DC641
UAH;PUMBBank;PUMB;PUMB;#ED1C24
INR;UPI;UPI;UPI;#F0B90B
INR;IMPS;IMPS;;#F0B90B
KZT;KaspiBank;Kaspi Bank;Kaspi Bank;#F14635
KZT;HalykBank;Halyk Bank;;#00805F
KES;MpesaKenya;M-PESA Kenya (Safaricom);M-PESA;#4CB749
CNY;ALIPAY;支付宝;支付宝;#1677FF
CNY;WECHAT;微信支付;微信;#07C160
LKR;SampathBank;Sampath Bank;;#F58220
TRY;Papara;Papara;;#111111";

/// The symbols that are known; the others' symbol is their code.
const SYMBOLS: &str = "BOB Bs. VES Bs. USD $ ARS ARS$ UAH ₴ TRY ₺ KZT 〒 LKR රු CNY ￥ BND B$";

/// A currency that ads are priced in.
#[derive(Debug, Clone)]
pub struct Fiat {
    /// Whether it is in the list. Once gone it answers like one of [`Catalog::delisted`].
    pub listed: bool,
    /// Code, mostly but not always ISO 4217.
    pub code: String,
    /// Sign shown beside amounts.
    pub symbol: String,
    /// Decimals of amounts.
    pub scale: u32,
    /// Price of one USDT on taker BUY and SELL.
    pub levels: [Decimal; 2],
    /// Relative number of USDT ads on taker BUY and SELL.
    pub weights: [u64; 2],
    /// Payment methods of the fiat, as indexes into [`Catalog::methods`].
    pub methods: Vec<usize>,
}

/// A thing that is bought and sold.
#[derive(Debug, Clone)]
pub struct Asset {
    /// Symbol.
    pub symbol: String,
    /// Price in USDT.
    pub price: Decimal,
    /// Decimals of quantities.
    pub scale: u32,
    /// Relative number of ads among the assets that are not USDT.
    pub weight: u64,
}

/// A way to pay.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct Method {
    pub identifier: String,
    pub name: String,
    pub short_name: Option<String>,
    pub color: String,
}

/// Everything that is offered.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Fiats of fiat-list at the start, largest first.
    pub fiats: Vec<Fiat>,
    /// Fiats that were gone from the list before the start but still answer, without ads.
    pub delisted: Vec<String>,
    /// Assets, USDT first.
    pub assets: Vec<Asset>,
    /// Every payment method of any fiat.
    pub methods: Vec<Method>,
}

#[derive(Deserialize)]
struct MeasuredFile {
    fiats: Vec<MeasuredFiat>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeasuredFiat {
    fiat: String,
    buy_total: u64,
    sell_total: u64,
    buy_median: Option<Decimal>,
    sell_median: Option<Decimal>,
}

impl Catalog {
    /// The first `fiats` fiats, `assets` assets and `delisted` names of fiats that are gone.
    #[must_use]
    pub fn new(fiats: usize, assets: usize, delisted: usize) -> Self {
        let methods: Vec<(&str, Method)> = METHODS.lines().map(parse_method).collect();
        let mut all = measured_fiats();
        all.extend(entries(GUESSED).map(|entry| guessed_fiat(&entry)));
        all.truncate(fiats);
        for (number, fiat) in all.iter_mut().enumerate() {
            let usable = |(at, (owner, _)): (usize, &(&str, Method))| {
                // The first three generic methods are everywhere, each other one in a third.
                let generic = *owner == "*" && (at < 3 || (at + number) % 3 == 0);
                (generic || *owner == fiat.code).then_some(at)
            };
            fiat.methods = methods.iter().enumerate().filter_map(usable).collect();
        }
        Self {
            fiats: all,
            delisted: DELISTED.split(' ').take(delisted).map(str::to_owned).collect(),
            assets: entries(ASSETS).take(assets).map(|entry| parse_asset(&entry)).collect(),
            methods: methods.into_iter().map(|(_, method)| method).collect(),
        }
    }

    /// The fiat of that code, if it is listed.
    #[must_use]
    pub fn fiat(&self, code: &str) -> Option<(usize, &Fiat)> {
        self.fiats.iter().enumerate().find(|(_, fiat)| fiat.listed && fiat.code == code)
    }

    /// How many of the assets a fiat offers on a side (0 BUY, 1 SELL). The two may differ.
    #[must_use]
    pub fn offered_assets(&self, fiat: usize, side: usize) -> usize {
        let fewer = if fiat % 4 == 3 && side == 0 { 2 } else { 0 };
        self.assets.len().saturating_sub(fewer).max(1)
    }
}

fn entries(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.split(['|', '\n']).map(|entry| entry.split(' ').collect())
}

fn decimal(text: &str) -> Decimal {
    text.parse().expect("the tables of this file hold decimals")
}

fn measured_fiats() -> Vec<Fiat> {
    let file: MeasuredFile =
        serde_json::from_str(MEASURED).expect("the committed file of totals is valid");
    let mut fiats: Vec<Fiat> = file
        .fiats
        .into_iter()
        .filter(|fiat| fiat.buy_total + fiat.sell_total > 0)
        .map(|fiat| {
            // BWP alone was without medians when they were taken.
            let buy = fiat.buy_median.unwrap_or_else(|| decimal("13.4"));
            let levels = [buy, fiat.sell_median.unwrap_or(buy)];
            new_fiat(&fiat.fiat, levels, [fiat.buy_total, fiat.sell_total])
        })
        .collect();
    fiats.sort_by_key(|fiat| std::cmp::Reverse(fiat.weights[0] + fiat.weights[1]));
    fiats
}

fn guessed_fiat(entry: &[&str]) -> Fiat {
    let weight = |at: usize| entry[at].parse().expect("the tables of this file hold numbers");
    let level = decimal(entry[1]);
    // Sellers' asks stand half a percent above buyers' bids.
    let bid = level * decimal("0.995");
    new_fiat(entry[0], [level, bid], [weight(2), weight(3)])
}

fn new_fiat(code: &str, levels: [Decimal; 2], weights: [u64; 2]) -> Fiat {
    let mut symbols = SYMBOLS.split(' ');
    let symbol = symbols.find(|word| *word == code).and_then(|_| symbols.next()).unwrap_or(code);
    let scale = if matches!(code, "BND" | "JOD" | "KWD" | "BHD" | "OMR") { 3 } else { 2 };
    Fiat {
        listed: true,
        code: code.to_owned(),
        symbol: symbol.to_owned(),
        scale,
        levels,
        weights,
        methods: Vec::new(),
    }
}

fn parse_asset(entry: &[&str]) -> Asset {
    let number = |at: usize| entry[at].parse().expect("the tables of this file hold numbers");
    Asset {
        symbol: entry[0].to_owned(),
        price: decimal(entry[1]),
        scale: number(2),
        weight: u64::from(number(3)),
    }
}

fn parse_method(line: &'static str) -> (&'static str, Method) {
    let fields: Vec<&str> = line.split(';').collect();
    let method = Method {
        identifier: fields[1].to_owned(),
        name: fields[2].to_owned(),
        short_name: (!fields[3].is_empty()).then(|| fields[3].to_owned()),
        color: fields[4].to_owned(),
    };
    (fields[0], method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_110_fiats_once_each_and_the_largest_first() {
        let catalog = Catalog::new(110, 14, 3);
        let codes: std::collections::HashSet<_> = catalog.fiats.iter().map(|f| &f.code).collect();
        assert_eq!((catalog.fiats.len(), codes.len()), (110, 110));
        assert_eq!(catalog.fiats[0].code, "INR");
        assert_eq!(catalog.delisted, ["NGN", "GHS", "ETB"]);
        assert!(catalog.fiats.iter().all(|f| f.methods.len() >= 3 && f.levels[1] > Decimal::ZERO));
        assert!(catalog.delisted.iter().all(|code| catalog.fiat(code).is_none()));
    }

    #[test]
    fn the_assets_of_two_sides_may_differ() {
        let catalog = Catalog::new(10, 14, 0);
        assert_eq!(catalog.offered_assets(0, 0), 14);
        assert_eq!((catalog.offered_assets(3, 0), catalog.offered_assets(3, 1)), (12, 14));
        assert_eq!(Catalog::new(10, 1, 0).offered_assets(3, 0), 1);
    }
}
