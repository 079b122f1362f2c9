//! The smallest guest: what the start of a container costs, with next to nothing in it.

fn main() {
    println!("Hello from Sampan!");
}
