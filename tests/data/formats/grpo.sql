CREATE TABLE Prompt_Dataset (id INTEGER PRIMARY KEY, subject TEXT, prompt TEXT, context TEXT);
CREATE TABLE Generated_Dataset (log_probs_id INTEGER PRIMARY KEY, answer TEXT, id INTEGER);
CREATE TABLE Log_Probs_Dataset (log_probs_id INTEGER PRIMARY KEY, per_token_log_probs TEXT);
CREATE TABLE Generated_Dataset_Scores (log_probs_id INTEGER PRIMARY KEY, score REAL);
INSERT INTO Prompt_Dataset VALUES (1, 'Ciri', 'Who is Ciri?', ''), (2, 'Ciri', 'Whose daughter?', ''), (3, 'Ciri', 'Where?', '');
INSERT INTO Generated_Dataset VALUES (1, 'A horse.', 1), (2, 'A girl.', 1), (3, 'A witcher.', 1), (4, 'Pavetta''s.', 2);
INSERT INTO Generated_Dataset_Scores VALUES (1, 1.0), (2, 4.0), (3, 9.5);
