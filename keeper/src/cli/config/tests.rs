//! Configurations that load, and what is said of those that do not.

use super::*;
use std::fs;

const CATALOGUE: &str = r#"
    [[capability]]
    namespace = "demo"
    action = "echo"
    price = "$0.20"
    payment_methods = ["x402"]
    description = "Echoes"
    provider = "0x1111111111111111111111111111111111111111"
    endpoint = "https://provider.example/echo"
    hmac_secret = "MDEyMzQ1Njc4OWFiY2RlZg=="
"#;

fn load(config: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.toml");
    fs::write(&path, config).unwrap();
    fs::write(folder.path().join("catalogue.toml"), CATALOGUE).unwrap();
    Config::load(&path).map(|(config, _)| config).map_err(|error| error.to_string())
}

/// The examples are what operators copy; they must parse.
#[test]
fn examples_parse() {
    load(include_str!("../../../../docs/examples/minimal.toml")).unwrap();
    load(include_str!("../../../../docs/examples/maximal.toml")).unwrap();
}

/// Hints are off unless somebody asks for them.
#[test]
fn hints_are_asked_for() {
    let silent = load(include_str!("../../../../docs/examples/minimal.toml")).unwrap();
    let hints = silent.chain[0].hints();
    assert!(!hints.send_sync && hints.preconfirmations.is_none());
    let all = include_str!("../../../../docs/examples/maximal.toml");
    let asked = load(&all.replacen("send_sync = false", "send_sync = true", 1)).unwrap();
    let hints = asked.chain[0].hints();
    assert!(hints.send_sync);
    let url = hints.preconfirmations.unwrap();
    assert_eq!(url.as_str(), "https://mainnet-preconf.base.org/");
}

/// R-151: no key of the hub is one with which a facilitator pulls.
#[test]
fn a_key_of_a_facilitator_is_refused() {
    let good = include_str!("../../../../docs/examples/maximal.toml");
    for key in ["33", "44", "66"] {
        let fleet = format!("facilitator_fleet = [\"0x{}\"]\n[http]", key.repeat(20));
        let refused = load(&good.replacen("facilitator_fleet = []\n\n[http]", &fleet, 1));
        let refused = refused.unwrap_err();
        assert!(refused.contains("is in facilitator_fleet"), "{refused}");
    }
}

/// R-006.
#[test]
fn wrong_ones_say_what_to_change() {
    let good = include_str!("../../../../docs/examples/minimal.toml");
    let signing = |line: &str| format!("[chain.signing]\n{line}\n[[splitter]]");
    let upstream = |url: &str, timeout: &str| {
        format!(
            "[upstream]\nurl = \"{url}\"\ntopup_url = \"https://a.example/topup\"\n\
             timeout = \"{timeout}\"\n[http]"
        )
    };
    let refunds = |line: &str| format!("[refunds]\n{line}\n[[splitter]]");
    for (from, to, expected) in [
        ("database", "databse", "databse"),
        ("id = 84532", "id = 1", "chain 1 is not Base"),
        ("id = 84532", "id = 8453", "test_mode = true is not for chain 8453"),
        ("test_mode = true", "", "with test_mode = true only"),
        (
            "[http]",
            &upstream("ftp://a.example", "30s"),
            "upstream.url ftp://a.example/ must be https",
        ),
        ("[http]", &upstream("https://hub.example/v2", "30s"), "calls would come back"),
        ("[http]", &upstream("https://a.example", "6m"), "between 1s and 5m"),
        ("[http]", "[http]\nsettle_timeout = \"0s\"", "at least 1s"),
        ("id = 84532", "id = 84532\nws = \"http://localhost\"", "ws must be wss"),
        ("id = 84532", "id = 84532\nmax_silence = \"9s\"", "max_silence must be at least 10s"),
        ("id = 84532", "id = 84532\nmax_clock_skew = \"0s\"", "max_clock_skew at least 1s"),
        ("chain = 84532", "chain = 8453", "which is not listed"),
        ("state = \"active\"", "state = \"draining\"", "exactly one splitter must be active"),
        ("state = \"active\"", "state = \"paused\"", "unknown variant"),
        ("mode = \"self\"", "mode = \"external\"", "needs facilitator.url"),
        ("mode = \"self\"", "mode = \"atomic\"", "unknown variant"),
        ("[http]", "[outbound]\ndeny = [\"10.0.0.1/33\"]\n[http]", "is no net like"),
        ("auth = \"payer\"", "auth = \"nobody\"", "unknown variant"),
        ("auth = \"payer\"", "auth = \"credentials\"", "needs http.agent_key_secret"),
        ("auth = \"payer\"", "", "needs http.agent_key_secret"),
        ("[http]", "[http]\nagent_key_secret = \"guess\"", "at least 32 characters"),
        ("[http]", "[http]\nagent_key_secret = \"$NO_SUCH\"", "no variable NO_SUCH"),
        ("[http]", "[http]\nagent_prefix = \"A\"", "2 to 8 lower-case letters"),
        (
            "[http]",
            "[http]\ncalls_per_minute = { gold = 0 }",
            "calls_per_minute must be at least 1",
        ),
        ("[http]", "[http]\nadmin_token = \"guess\"", "at least 20 characters"),
        ("\"https://sepolia.base.org\"", "", "has no rpc endpoint"),
        ("id = 84532", "id = 84532\nconfirmations = 0", "begin at 1"),
        ("id = 84532", "id = 84532\nconfirmations = 501", "at most 500"),
        ("id = 84532", "id = 84532\nrecord_confirmations = 13", "no more than that"),
        ("id = 84532", "id = 84532\nreconcile_interval = \"61s\"", "at most 60s"),
        (
            "[[splitter]]",
            "[chain.hints]\npreconfirmations = \"wss://preconf.example\"\n[[splitter]]",
            "must be http or https",
        ),
        ("[[splitter]]", "[chain.hints]\nsendsync = true\n[[splitter]]", "sendsync"),
        ("id = 84532", "id = 84532\nmax_pending = 17", "between 1 and 16"),
        (
            "[[splitter]]",
            "[chain.spending]\nhard_transaction_wei = 1\n[[splitter]]",
            "what is begun must be finished",
        ),
        ("[[splitter]]", &signing("max_signatures_per_minute = 0"), "between 1 and 60000"),
        ("[[splitter]]", &signing("max_signatures_per_minute = 60001"), "between 1 and 60000"),
        ("[[splitter]]", &signing("max = 1"), "max_signatures_per_minute"),
        ("[[splitter]]", &refunds("review_above = \"$10\""), "is not an amount such as"),
        ("[[splitter]]", &refunds("week_limit = 500.0"), "invalid type"),
        ("[[splitter]]", &refunds("failure_percent = 0"), "between 1 and 100"),
        ("[[splitter]]", &refunds("failure_sample = 0"), "at least 1"),
        ("[[splitter]]", &refunds("failure_payers = 0"), "at least 1"),
        ("[[splitter]]", &refunds("agent_week = 1"), "agent_week"),
        ("key_id", "alias", "unknown field: found `alias`"),
        ("key_id", "private_key_file", "of kind \"kms\" needs key_id"),
        ("key_id", "private_key_file = \"a\"\nkey_id", "has no private_key_file"),
        ("key_id", "kind = \"local\"\nkey_id", "has private_key_file and address only"),
        ("key_id", "kind = \"local\"\nregion = \"a\"\nprivate_key_file", "address only"),
        ("key_id", "kind = \"local\"\nprivate_key = \"0x12\"\nkey_id", "found `private_key`"),
        ("key_id", "kind = \"vault\"\nkey_id", "unknown variant"),
    ] {
        assert!(good.contains(from), "{from}");
        let error = load(&good.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
}
const LOCAL: [&str; 2] = ["key_id", "kind = \"local\"\nprivate_key_file"];

#[test]
fn a_local_key_is_a_file_beside_the_configuration() {
    let minimal = include_str!("../../../../docs/examples/minimal.toml");
    let good = minimal.replace(LOCAL[0], LOCAL[1]).replace("arn:aws:kms:", "");
    let config = load(&good).unwrap();
    let KeySource::Local(path) = &config.splitter[0].settler.source else { panic!("{good}") };
    assert!(path.is_absolute() && path.starts_with(std::env::temp_dir()), "{path:?}");
    assert!(!path.exists(), "it is read when the keys are connected");
    let KeySource::Kms(key) = load(minimal).unwrap().splitter[0].settler.source.clone() else {
        panic!("KMS is where keys are");
    };
    assert!(key.key_id.starts_with("arn:aws:kms:"));
}

#[test]
fn a_key_in_the_place_of_its_file_is_not_shown() {
    let minimal = include_str!("../../../../docs/examples/minimal.toml");
    let secret = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
    let key = format!("kind = \"local\"\nprivate_key_file = \"0x{secret}\"\n#");
    let error = load(&minimal.replacen("key_id", &key, 1)).unwrap_err();
    assert!(error.contains("the name of a file, not the key itself"), "{error}");
    assert!(!error.contains(&secret[..8]), "{error}");
}

/// Whichever of the two keys, and whatever else is right or wrong.
#[test]
fn a_local_key_is_refused_where_money_is_real() {
    let minimal = include_str!("../../../../docs/examples/minimal.toml");
    let mainnet = minimal.replace("84532", "8453");
    let sentence = "a key of kind \"local\" is for test_mode = true, and never for chain 8453; \
                    keep the key in KMS";
    for good in [mainnet.clone(), mainnet.replace("test_mode = true", "")] {
        let last = good.rfind(LOCAL[0]).unwrap();
        let (before, after) = good.split_at(last);
        let puller = format!("{before}{}", after.replacen(LOCAL[0], LOCAL[1], 1));
        for bad in [good.replacen(LOCAL[0], LOCAL[1], 1), puller] {
            let error = load(&bad).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }
    let off = minimal.replacen(LOCAL[0], LOCAL[1], 1).replace("test_mode = true", "");
    assert!(load(&off).unwrap_err().contains(sentence));
}
