//! Runs in test containers. Each argument is one thing to do, in turn.

use std::{
    fs, io::Write, process::exit, sync::atomic::{AtomicI32, Ordering}, thread, time::Duration,
};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn unshare(flags: i32) -> i32;
    fn open(path: *const u8, flags: i32) -> i32;
    fn mknod(path: *const u8, mode: u32, device: u64) -> i32;
    fn fork() -> i32;
    fn kill(pid: i32, number: i32) -> i32;
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn catch(number: i32) {
    CAUGHT.store(number, Ordering::SeqCst);
}

fn main() {
    for act in std::env::args().skip(1) {
        let (verb, rest) = act.split_once('=').unwrap_or((&act, ""));
        match verb {
            "say" => println!("{rest}"),
            "read" => {
                println!("{rest}: {}", fs::read_to_string(rest).unwrap_or_else(|e| e.to_string()).trim_end());
            }
            "link" => println!("{rest} -> {}", fs::read_link(rest).unwrap().display()),
            "list" => {
                let entries = fs::read_dir(rest).map(|all| {
                    let mut names: Vec<_> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                    names.sort();
                    names.join(" ")
                });
                println!("{rest}: [{}]", entries.unwrap_or_else(|e| e.to_string()));
            }
            "write" => println!("write {rest}: {:?}", fs::write(rest, "x").map_err(|e| e.kind())),
            "env" => println!("{rest}={}", std::env::var(rest).unwrap_or_default()),
            "cwd" => println!("cwd {}", std::env::current_dir().unwrap().display()),
            "unshare" => println!("unshare {}", unsafe { unshare(rest.parse().unwrap()) }),
            "mknod" => {
                // 7:0, a loop device, by the kernel's numbering.
                let path = format!("{rest}\0");
                let made = unsafe { mknod(path.as_ptr(), 0o60600, 7 << 8) };
                let opened = unsafe { open(path.as_ptr(), 0) };
                println!("mknod {made} open {opened}");
            }
            "alloc" => {
                let mut kept: Vec<Vec<u8>> = vec![];
                for _ in 0..rest.parse().unwrap() {
                    kept.push(vec![1; 1_000_000]);
                }
                println!("allocated {}", kept.len());
                std::mem::forget(kept);
            }
            "forks" => {
                let mut made = 0;
                for _ in 0..rest.parse().unwrap() {
                    match unsafe { fork() } {
                        0 => loop { thread::sleep(Duration::from_secs(3600)) },
                        pid if pid > 0 => made += 1,
                        _ => break,
                    }
                }
                println!("forked {made}");
            }
            "spin" => loop { std::hint::black_box(0); },
            "suicide" => { unsafe { kill(1, rest.parse().unwrap()) }; }
            "flood" => {
                let line = [b'x'; 1000];
                for _ in 0..rest.parse().unwrap() {
                    std::io::stdout().write_all(&line).unwrap();
                }
                println!("flooded");
            }
            "exit" => exit(rest.parse().unwrap()),
            // Sleeps, deaf to SIGTERM.
            "ignore" => unsafe { signal(15, 1); },
            // Sleeps until the signal, then says so and ends well.
            "until" => {
                let number = rest.parse().unwrap();
                unsafe { signal(number, catch as *const () as usize) };
                println!("waiting");
                while CAUGHT.load(Ordering::SeqCst) == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
                println!("caught {}", CAUGHT.load(Ordering::SeqCst));
                thread::sleep(Duration::from_millis(50));
            }
            "sleep" => loop { thread::sleep(Duration::from_secs(3600)) },
            other => panic!("cannot {other}"),
        }
        std::io::stdout().flush().unwrap();
    }
}
