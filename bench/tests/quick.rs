//! The harness from one end to the other, on a small cluster: its figures mean nothing, its workings do.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    use serde_json::Value;

    fn bench(arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lifeboat-bench")).args(arguments).output().unwrap()
    }

    #[test]
    fn missing_binaries_are_noticed_before_anything_is_made() {
        let empty = tempfile::tempdir().unwrap();
        let output = bench(&["--quick", "--bin-dir", &empty.path().display().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains("lifeboatd: build it with"), "{said}");
        assert!(!said.contains("make a cluster"), "{said}");
    }

    #[test]
    fn the_peers_back_up_and_restore_a_small_cluster_and_every_figure_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("page.md");
        let page_name = page.display().to_string();
        let output =
            bench(&["--quick", "--runs", "1", "--tools", "pgbackrest,script", "--json", "--markdown", &page_name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("pgBackRest restores every row") && said.contains("script restores every row"), "{said}");

        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let data = report["data_bytes"].as_f64().unwrap();
        assert!(data >= 50e6, "{data}");
        let rows = report["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 6);
        let figure = |row: usize, name: &str| rows[row]["runs"][0][name].as_f64().unwrap();
        for (row, shown) in rows.iter().enumerate() {
            for name in ["wall_seconds", "cpu_seconds", "largest_process_bytes", "all_processes_bytes", "requests"] {
                assert!(figure(row, name) > 0.0, "{name} of {shown}");
            }
            assert!(figure(row, "all_processes_bytes") < 4e9, "{shown}");
        }
        for (one, two) in [(0, 2), (1, 3)] {
            let ratio = figure(two, "stored_bytes") / figure(one, "stored_bytes");
            assert!((1.9..2.2).contains(&ratio), "two regions hold {ratio} times what one holds");
            assert!(figure(one, "stored_bytes") < data, "{}", rows[one]);
        }
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("| restore, 1 region | script |"), "{page}");
    }

    #[test]
    fn wal_is_stored_and_recovered_and_every_figure_is_reported() {
        let daemon = Path::new(env!("CARGO_BIN_EXE_lifeboat-bench")).with_file_name("lifeboatd");
        assert!(daemon.exists(), "{} is missing; build it with: cargo build --workspace", daemon.display());
        let scenarios = "wal-latency,wal-drain,recovery";
        let output =
            bench(&["--quick", "--runs", "1", "--tools", "lifeboat,pgbackrest", "--scenarios", scenarios, "--json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("Lifeboat recovers every row") && said.contains("pgBackRest recovers every row"),
            "{said}"
        );

        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = |kind: &str| report["wal"][kind].as_array().unwrap().clone();
        assert_eq!(report["rows"].as_array().unwrap().len(), 0, "no backups were asked for");
        let shapes = ["latency", "drain", "recovery"].map(|kind| rows(kind).len());
        assert_eq!(shapes, [8, 2, 2], "two loads, three manners and one; two tools; two tools");
        for row in ["latency", "drain", "recovery"].into_iter().flat_map(rows) {
            let run = &row["runs"][0];
            for name in ["wall_seconds", "largest_process_bytes", "all_processes_bytes", "wal_bytes"] {
                assert!(run[name].as_f64().unwrap() > 0.0, "{name} of {row}");
            }
        }
        for row in rows("drain").into_iter().chain(rows("recovery")) {
            assert!(row["runs"][0]["cpu_seconds"].as_f64().unwrap() > 0.0, "{row}");
        }
        for row in rows("latency") {
            let run = &row["runs"][0];
            // The kernel counts hundredths of a second: ten transactions may take less, and a tool that archives whole
            // segments may have nothing to do in the one second of such a cell.
            let works = row["tool"] == "Lifeboat" && row["what"] != "10 transactions/s";
            assert!(!works || run["cpu_seconds"].as_f64().unwrap() > 0.0, "{row}");
            assert!(run["pgbench"]["transactions"].as_u64().unwrap() > 0, "{row}");
            let (one, both) = (&run["one"]["latency"], &run["both"]["latency"]);
            assert!(both["count"].as_u64().unwrap() > 0, "{row}");
            assert!(one["p50"].as_f64() <= both["p50"].as_f64(), "{row}");
            assert!(both["p50"].as_f64() <= both["max"].as_f64(), "{row}");
        }
        for row in rows("drain") {
            let run = &row["runs"][0];
            assert!(
                run["wal_bytes"].as_f64().unwrap() >= 20e6 && run["seconds"].as_f64() >= run["flow_seconds"].as_f64()
            );
        }
        for row in rows("recovery") {
            let run = &row["runs"][0];
            assert!(run["found"].as_u64().unwrap() > 0 && run["found"] == run["transactions"], "{row}");
        }
    }
}
