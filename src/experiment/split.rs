//! Which images are of which task.

use super::dataset::{Dataset, Labelled};
use super::{ExperimentError, RunSettings, SplitKind};
use crate::config::Seed;

/// One task: its classes, and the images of it by their numbers in the dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSplit {
    /// In the order of the split.
    pub classes: Vec<u32>,
    pub train: Vec<usize>,
    pub test: Vec<usize>,
    /// Training images that are in no task's `train`, and are tested.
    pub unused: Vec<usize>,
    /// The turn in which each image of `train`, then of `test`, is tested with those of other turns for a bank; empty where
    /// those of `test` are tested with those of `train`.
    pub turns: Vec<u32>,
}

/// Tracks of a class take turns in being tested.
const TURNS: u32 = 4;

/// The tasks in the order they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub tasks: Vec<TaskSplit>,
}

impl Split {
    /// The split of the settings. Where images are limited, which of a task stay is drawn by the run's seed, as many of each
    /// class as of the others.
    ///
    /// # Errors
    /// Where there are not so many classes, or a task would have no image.
    pub fn new(settings: &RunSettings, dataset: &Dataset) -> Result<Self, ExperimentError> {
        let groups = match settings.split {
            SplitKind::Classes => class_groups(settings, dataset)?,
            SplitKind::Domains => domain_groups(settings, dataset)?,
        };
        let all: Vec<u32> = (0..dataset.class_names.len() as u32).collect();
        let mut tasks = Vec::with_capacity(groups.len());
        for (number, group) in groups.into_iter().enumerate() {
            let members = |part: &Labelled| (0..part.len()).filter(|at| group.holds(part, *at)).collect::<Vec<usize>>();
            let part = |part: &Labelled, limit: Option<usize>, purpose: &str| {
                limited(part, members(part), limit, Seed(settings.seed), &format!("{purpose} of task {number}"))
            };
            let train = part(&dataset.train, settings.limit_per_task, "training images");
            let test = part(&dataset.test, settings.test_limit, "test images");
            if train.is_empty() || test.is_empty() {
                let message =
                    format!("task {} has {} training and {} test images", number + 1, train.len(), test.len());
                return Err(ExperimentError::setting("tasks", settings.tasks, message));
            }
            let mut unused = if settings.test_unused { members(&dataset.train) } else { Vec::new() };
            unused.retain(|image| train.binary_search(image).is_err());
            let turns = if settings.test_tracks { turns(dataset, &train, &test)? } else { Vec::new() };
            let classes = match group {
                Group::Classes(classes) => classes,
                Group::Domain(_) => all.clone(),
            };
            tasks.push(TaskSplit { classes, train, test, unused, turns });
        }
        Ok(Self { tasks })
    }

    /// The task of each training image of the dataset; none where it is of none.
    pub fn tasks_of(&self, images: usize) -> Vec<Option<usize>> {
        let mut of = vec![None; images];
        for (number, task) in self.tasks.iter().enumerate() {
            task.train.iter().for_each(|image| of[*image] = Some(number));
        }
        of
    }
}

enum Group {
    Classes(Vec<u32>),
    Domain(u32),
}

impl Group {
    fn holds(&self, part: &Labelled, image: usize) -> bool {
        match self {
            Self::Classes(classes) => classes.contains(&part.classes[image]),
            Self::Domain(domain) => part.domains.get(image) == Some(domain),
        }
    }
}

fn class_groups(settings: &RunSettings, dataset: &Dataset) -> Result<Vec<Group>, ExperimentError> {
    // These are made of domains; without them they would be one heap.
    if ["simulated", "cifar10-domains"].contains(&settings.dataset_name()) && settings.tasks == 0 {
        return domain_groups(settings, dataset);
    }
    let classes = dataset.class_names.len();
    let mut order: Vec<u32> = (0..classes as u32).collect();
    if let Some(seed) = settings.class_order {
        Seed(seed).random("class order", 0).shuffle(&mut order);
    }
    let (tasks, per_task) = settings.shape();
    let per_task = if per_task == 0 { classes / tasks.max(1) } else { per_task };
    if per_task == 0 || tasks * per_task > classes {
        let message = format!("{tasks} tasks of {per_task} classes cannot be made of {classes} classes");
        return Err(ExperimentError::setting("tasks", tasks, message));
    }
    Ok(order.chunks_exact(per_task).take(tasks).map(|group| Group::Classes(group.to_vec())).collect())
}

fn domain_groups(settings: &RunSettings, dataset: &Dataset) -> Result<Vec<Group>, ExperimentError> {
    let mut domains: Vec<u32> = dataset.train.domains.clone();
    domains.sort_unstable();
    domains.dedup();
    if domains.is_empty() {
        let message = format!("{} knows no domains: split it by classes", dataset.name);
        return Err(ExperimentError::setting("split", "domains", message));
    }
    domains.truncate(if settings.tasks == 0 { usize::MAX } else { settings.tasks });
    Ok(domains.into_iter().map(Group::Domain).collect())
}

fn turns(dataset: &Dataset, train: &[usize], test: &[usize]) -> Result<Vec<u32>, ExperimentError> {
    let images =
        train.iter().map(|image| (&dataset.train, image)).chain(test.iter().map(|image| (&dataset.test, image)));
    let turns = images.map(|(part, image)| part.tracks.get(*image).map(|track| track % TURNS));
    turns.collect::<Option<_>>().ok_or_else(|| {
        let message = format!("{} knows no tracks: leave it out", dataset.name);
        ExperimentError::setting("test_tracks", true, message)
    })
}

/// At most `limit` of the members, in their order, as many of each class as the others have.
fn limited(part: &Labelled, members: Vec<usize>, limit: Option<usize>, seed: Seed, purpose: &str) -> Vec<usize> {
    let Some(limit) = limit.filter(|limit| *limit < members.len()) else { return members };
    let mut classes: Vec<u32> = members.iter().map(|image| part.classes[*image]).collect();
    classes.sort_unstable();
    classes.dedup();
    let mut queues: Vec<Vec<usize>> = classes
        .iter()
        .map(|class| {
            let mut of_class: Vec<usize> =
                members.iter().copied().filter(|image| part.classes[*image] == *class).collect();
            seed.random(purpose, u64::from(*class)).shuffle(&mut of_class);
            of_class
        })
        .collect();
    let mut kept = Vec::with_capacity(limit);
    while kept.len() < limit {
        for queue in &mut queues {
            kept.extend(queue.pop().filter(|_| kept.len() < limit));
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(classes: u32, each: usize) -> Dataset {
        let labelled = |each: usize| Labelled {
            pixels: vec![0; classes as usize * each * 3],
            classes: (0..each).flat_map(|_| 0..classes).collect(),
            domains: (0..each * classes as usize).map(|at| (at % 2) as u32).collect(),
            tracks: Vec::new(),
        };
        Dataset {
            name: "cifar10".into(),
            side: 1,
            class_names: (0..classes).map(|class| class.to_string()).collect(),
            train: labelled(each),
            test: labelled(4),
            notes: Vec::new(),
        }
    }

    #[test]
    fn classes_are_split_in_order_or_by_a_seed() {
        let dataset = dataset(10, 6);
        let split = Split::new(&RunSettings::default(), &dataset).unwrap();
        assert_eq!(split.tasks.len(), 5);
        assert_eq!((&*split.tasks[1].classes, split.tasks[1].train.len()), (&[2, 3][..], 12));
        let drawn = Split::new(&RunSettings { class_order: Some(1), ..RunSettings::default() }, &dataset).unwrap();
        assert_ne!(drawn, split);
        let mut classes: Vec<u32> = drawn.tasks.iter().flat_map(|task| task.classes.clone()).collect();
        classes.sort_unstable();
        assert_eq!(classes, (0..10).collect::<Vec<_>>());
        let tasks_of = split.tasks_of(60);
        assert!(tasks_of.iter().enumerate().all(|(image, task)| *task == Some(image % 10 / 2)));
    }

    #[test]
    fn few_images_are_as_many_of_each_class() {
        let settings = RunSettings { limit_per_task: Some(5), test_limit: Some(2), ..RunSettings::default() };
        let dataset = dataset(10, 6);
        let split = Split::new(&settings, &dataset).unwrap();
        for task in &split.tasks {
            let of = |class: u32| task.train.iter().filter(|image| dataset.train.classes[**image] == class).count();
            assert_eq!((of(task.classes[0]), of(task.classes[1]), task.test.len()), (3, 2, 2));
        }
        assert_eq!(Split::new(&settings, &dataset).unwrap(), split);
        let more = Split::new(&RunSettings { test_unused: true, ..settings.clone() }, &dataset).unwrap();
        for (task, fewer) in more.tasks.iter().zip(&split.tasks) {
            assert_eq!((&task.train, task.unused.len(), fewer.unused.len()), (&fewer.train, 7, 0));
            assert!(task.unused.iter().all(|image| task.classes.contains(&dataset.train.classes[*image])));
            assert!(task.unused.iter().all(|image| !task.train.contains(image)));
        }
        assert_ne!(Split::new(&RunSettings { seed: 1, ..settings }, &dataset).unwrap(), split);
    }

    #[test]
    fn tracks_take_turns_where_the_dataset_knows_of_them() {
        let settings = RunSettings { test_tracks: true, limit_per_task: Some(4), ..RunSettings::default() };
        let mut dataset = dataset(10, 6);
        let error = Split::new(&settings, &dataset).unwrap_err().to_string();
        assert!(error.contains("test_tracks") && error.contains("knows no tracks"), "{error}");
        for part in [&mut dataset.train, &mut dataset.test] {
            part.tracks = (0..part.classes.len()).map(|image| image as u32 / 10).collect();
        }
        for task in Split::new(&settings, &dataset).unwrap().tasks {
            let expected = task.train.iter().chain(&task.test).map(|image| *image as u32 / 10 % 4);
            assert_eq!(task.turns, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn domains_make_tasks_and_too_many_tasks_are_refused() {
        let settings = RunSettings { split: SplitKind::Domains, ..RunSettings::default() };
        let split = Split::new(&settings, &dataset(4, 6)).unwrap();
        assert_eq!((split.tasks.len(), split.tasks[0].train.len(), split.tasks[0].classes.len()), (2, 12, 4));
        let error = Split::new(&RunSettings { tasks: 3, ..RunSettings::default() }, &dataset(2, 6)).unwrap_err();
        assert!(error.to_string().contains("cannot be made of 2 classes"), "{error}");
    }
}
